// Playback for the auditor: always through hls.js, because Chromium's own HLS closes up holes and then shows wrong times.
// A seek into a hole would stand still for seconds: the page moves it to the hole's end itself, and says that footage is missing.
"use strict";
(() => {
  const section = document.querySelector(".player");
  const video = document.getElementById("video"), seek = document.getElementById("seek");
  const note = document.getElementById("hole"), clock = document.getElementById("footage-time");
  const holes = JSON.parse(section.dataset.gaps), from = Number(section.dataset.from);
  const format = new Intl.DateTimeFormat("en-GB", { timeZone: "Asia/Shanghai", hour: "2-digit", minute: "2-digit", second: "2-digit", hour12: false });
  const LITTLE_S = 0.05;
  let dragging = false;

  function failed() { note.className = "bad"; note.textContent = section.dataset.failed; }

  if (!window.Hls || !Hls.isSupported()) { failed(); return; }
  const hls = new Hls({ maxBufferHole: 0.3, backBufferLength: 60, maxBufferLength: 20 });
  window.player = hls;        // for whoever looks into a fault with the browser's own tools
  hls.on(Hls.Events.ERROR, (_, data) => {
    if (!data.fatal) return;
    if (data.type === Hls.ErrorTypes.MEDIA_ERROR && !section.dataset.recovered) { section.dataset.recovered = "1"; hls.recoverMediaError(); return; }
    failed();
  });
  hls.loadSource(section.dataset.playlist);
  hls.attachMedia(video);

  const holeAt = (ms) => holes.find((hole) => ms >= hole.from_ms - 20 && ms < hole.to_ms);
  function go(ms) {
    const hole = holeAt(ms);
    note.className = "warn";
    note.textContent = hole ? section.dataset.inHole.replace("%1", hole.start).replace("%2", hole.end).replace("%3", hole.reason) : "";
    return (hole ? hole.to_ms : ms) / 1000 + (hole ? LITTLE_S : 0);
  }
  seek.addEventListener("input", () => { dragging = true; show(Number(seek.value)); });
  seek.addEventListener("change", () => { dragging = false; video.currentTime = go(Number(seek.value)); });
  video.addEventListener("seeking", () => {
    const hole = holeAt(video.currentTime * 1000);
    if (hole) video.currentTime = go(video.currentTime * 1000);
  });
  function show(ms) {
    clock.textContent = format.format(new Date(from + ms));
    seek.setAttribute("aria-valuetext", clock.textContent);
  }
  video.addEventListener("timeupdate", () => {
    const ms = video.currentTime * 1000;
    if (!dragging) seek.value = String(Math.round(ms));
    show(ms);
  });
  video.addEventListener("loadedmetadata", () => show(0));
})();
