// Live viewing: hls.js kept a second and a half behind the newest footage, the true delay in words, and plain words when the picture stands still.
// The delay is the room's clock against the time at which the shown picture was taken, both from this PC: nothing is estimated.
"use strict";
(() => {
  const LATE_S = 4, STANDS_S = 5, AGAIN_MS = 1000, STUCK_MS = 1500, LOOK_MS = 250;
  const section = document.querySelector("section.live"), video = document.getElementById("video");
  const delay = document.getElementById("delay"), stands = document.getElementById("stands"), words = section.dataset;
  const format = new Intl.DateTimeFormat("en-GB", { timeZone: "Asia/Shanghai", hour: "2-digit", minute: "2-digit", second: "2-digit", hour12: false });
  const put = (element, text) => { if (element.textContent !== text) element.textContent = text; };
  let edgeMs = 0, mendedAt = 0, movedAt = performance.now(), shown = -1, broken = "";

  if (!window.Hls || !Hls.isSupported()) { put(delay, ""); say(words.failed); return; }
  const hls = new Hls({
    liveSyncDuration: 1.5, liveMaxLatencyDuration: 4, maxLiveSyncPlaybackRate: 1.1, liveSyncOnStallIncrease: 0, liveDurationInfinity: true,
    lowLatencyMode: false, backBufferLength: 20, maxBufferLength: 8, maxBufferHole: 0.5,
  });
  window.player = hls;        // for whoever looks into a fault with the browser's own tools
  const load = () => hls.loadSource(words.playlist);
  hls.on(Hls.Events.ERROR, (_, data) => {
    if (!data.fatal) return;
    if (data.type === Hls.ErrorTypes.MEDIA_ERROR && performance.now() - mendedAt > 5000) { mendedAt = performance.now(); hls.recoverMediaError(); return; }
    if (data.type !== Hls.ErrorTypes.NETWORK_ERROR) broken = words.failed;      // nothing recorded yet, or the room is away: ask again
    setTimeout(load, AGAIN_MS);
  });
  hls.on(Hls.Events.LEVEL_UPDATED, (_, data) => {
    const last = data.details.fragments.at(-1);
    if (last && last.programDateTime) edgeMs = last.programDateTime + last.duration * 1000;
    broken = "";
  });
  load();
  hls.attachMedia(video);

  function say(text) { put(stands, text); stands.hidden = !text; }
  const toEdge = () => {
    if (Number.isFinite(hls.liveSyncPosition)) video.currentTime = hls.liveSyncPosition;
    video.play().catch(() => { /* the browser waits for a press */ });
  };
  document.getElementById("to-edge").addEventListener("click", toEdge);

  function look() {
    const now = window.roomTime(), at = hls.playingDate, old = edgeMs ? (now - edgeMs) / 1000 : 0;
    if (broken) say(broken);
    else say(old > STANDS_S ? words.stands.replace("%", format.format(new Date(edgeMs))) : "");
    if (video.currentTime !== shown) { shown = video.currentTime; movedAt = performance.now(); }
    const stuck = performance.now() - movedAt > STUCK_MS;
    if (stuck && !video.paused && old < STANDS_S && hls.liveSyncPosition > video.currentTime + 1) { toEdge(); movedAt = performance.now(); }
    if (!at || video.readyState < 2) { put(delay, words.waiting); delay.className = ""; return; }
    const behind = (now - at.getTime()) / 1000;
    section.dataset.behindMs = String(Math.round(behind * 1000));
    const late = behind > LATE_S;
    delay.className = late ? "warn" : "";
    put(delay, (video.paused ? words.paused : late ? words.late : words.delay).replace("%", behind.toFixed(1)));
  }
  setInterval(look, LOOK_MS);
})();
