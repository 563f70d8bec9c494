// What the pages do in the browser, beside htmx: the clock, how old the data are, held buttons, tones, pictures of the wall.
// The page holds no state: everything shown is asked of the room again after each change and each reconnect.
"use strict";
(() => {
  const STALE_MS = 5000, AGAIN_MS = 1500, PICTURE_MS = 1000;
  const body = document.body;
  let heard = performance.now();
  let serverMs = Number(body.dataset.now), serverAt = performance.now();

  const now = () => serverMs + (performance.now() - serverAt);
  window.roomTime = now;      // for the live page: how far behind the picture is
  const alive = (event) => {
    heard = performance.now();
    try {
      const facts = JSON.parse(event.data);
      if (facts.now_ms) { serverMs = facts.now_ms; serverAt = performance.now(); }
    } catch { /* a heartbeat without a body is a heartbeat still */ }
  };

  if (window.htmx) {
    htmx.createEventSource = (url) => {
      const source = new EventSource(url);
      source.addEventListener("snapshot", alive);
      source.addEventListener("beat", alive);
      source.addEventListener("bye", () => { source.close(); location.href = "/login"; });
      return source;
    };
  }

  // ---- clocks and the age of the data -------------------------------------------------------------------------------

  const clockFormat = new Intl.DateTimeFormat("en-GB", { timeZone: "Asia/Shanghai", hour: "2-digit", minute: "2-digit", second: "2-digit", hour12: false });
  const span = (ms) => {
    const s = Math.floor(Math.abs(ms) / 1000), two = (n) => String(n).padStart(2, "0");
    return `${two(Math.floor(s / 3600))}:${two(Math.floor(s / 60) % 60)}:${two(s % 60)}`;
  };
  const put = (element, text) => { if (element.textContent !== text) element.textContent = text; };

  function tick() {
    for (const clock of document.querySelectorAll("[data-clock]")) {
      const at = Number(clock.dataset.at), kind = clock.dataset.clock;
      if (kind === "now") put(clock, clockFormat.format(new Date(now())));
      if (kind === "since") put(clock, span(Math.max(0, now() - at)));
      if (kind === "until") {
        const over = now() > at;
        put(clock, (over ? "+" : "") + span(at - now()));
        clock.classList.toggle("over", over);
        for (const label of clock.parentElement.querySelectorAll("[data-under]")) put(label, over ? label.dataset.over : label.dataset.under);
      }
    }
    for (const block of document.querySelectorAll("[data-off-plan]")) {
      const off = Math.abs(now() - Number(block.dataset.offPlan)) > Number(block.dataset.offMs);
      block.hidden = !off;
      for (const field of block.querySelectorAll("input, textarea")) field.required = off;
    }
    if (document.querySelector("[data-live]")) {
      const age = performance.now() - heard, old = age > STALE_MS, note = document.getElementById("stale");
      body.classList.toggle("stale", old);
      note.hidden = !old;
      if (old) put(note, body.dataset.stale.replace("%", String(Math.floor(age / 1000))));
    }
  }
  tick();
  setInterval(tick, 500);

  // ---- panels: leave alone what did not change, so that nothing flickers, loses focus, or is read out twice ----------

  body.addEventListener("htmx:oobBeforeSwap", (event) => {
    const fragment = event.detail.fragment;
    const next = fragment instanceof DocumentFragment ? fragment.firstElementChild : fragment;
    const same = next && next.className === event.detail.target.className && next.innerHTML.trim() === event.detail.target.innerHTML.trim();
    if (same) event.detail.shouldSwap = false;
  });
  body.addEventListener("htmx:oobAfterSwap", () => tone());
  body.addEventListener("htmx:afterSwap", (event) => {
    if (event.detail.target && event.detail.target.className === "said") event.detail.target.scrollIntoView({ block: "nearest" });
  });

  // ---- pressing -------------------------------------------------------------------------------------------------------

  // A second press of the same button within 1.5 s does nothing: an impatient double click starts no second thing.
  // The same button: the same form with the same request id. A page that came anew has a new one, and the next person may sign at once.
  // The answer ends it: a corrected form may be sent at once.
  body.addEventListener("htmx:afterRequest", (event) => { if (event.detail.requestConfig?.verb === "post") sessionStorage.removeItem("acted"); });
  const nameOf = (form) => `${form.getAttribute("action")}#${form.elements.namedItem("request_id")?.value || ""}`;
  const lately = (form) => {
    const [name, at] = (sessionStorage.getItem("acted") || " 0").split(" ");
    return name === nameOf(form) && Date.now() - Number(at) < AGAIN_MS;
  };
  document.addEventListener("submit", (event) => {
    if (event.target.method !== "post" || event.target.closest("nav") || !event.target.elements.namedItem("request_id")) return;
    if (lately(event.target)) { event.preventDefault(); event.stopImmediatePropagation(); return; }
    sessionStorage.setItem("acted", `${nameOf(event.target)} ${Date.now()}`);
    if (event.target.dataset.long) say(event.target.dataset.long);
  }, true);

  const say = (text) => { const place = document.getElementById("saying"); if (place) place.textContent = text; };

  function holdable(button) {
    const needs = Number(button.dataset.hold);
    let since = 0, frame = 0;
    const field = button.form.elements.namedItem("held_ms");
    const draw = () => {
      const held = performance.now() - since;
      button.style.setProperty("--held", String(Math.min(1, held / needs)));
      if (held >= needs) { stop(true); return; }
      frame = requestAnimationFrame(draw);
    };
    const begin = (event) => {
      if (since || lately(button.form)) return;
      event.preventDefault();
      button.focus();
      if (!button.form.reportValidity()) return;
      since = performance.now();
      button.classList.add("holding");
      frame = requestAnimationFrame(draw);
    };
    const stop = (whole) => {
      if (!since) return;
      const held = Math.floor(performance.now() - since);
      cancelAnimationFrame(frame);
      since = 0;
      button.classList.remove("holding");
      button.style.removeProperty("--held");
      if (!whole) { say(body.dataset.held); return; }
      field.value = String(held);
      button.form.requestSubmit();
    };
    button.addEventListener("pointerdown", (event) => { if (event.button === 0) begin(event); });
    button.addEventListener("keydown", (event) => {
      if (event.key !== "Enter" && event.key !== " ") return;
      event.preventDefault();
      if (!event.repeat) begin(event);
    });
    for (const name of ["pointerup", "pointerleave", "pointercancel", "blur", "keyup"]) button.addEventListener(name, () => stop(false));
    button.addEventListener("contextmenu", (event) => event.preventDefault());
  }
  for (const button of document.querySelectorAll("[data-hold]")) holdable(button);

  for (const button of document.querySelectorAll("[data-fill-staff]")) {
    button.addEventListener("click", () => {
      document.getElementById("staff_id").value = button.dataset.fillStaff;
      const password = document.getElementById("password");
      password.value = button.dataset.fillPassword;
      password.focus();
    });
  }

  // ---- tones: once for each verdict, on the check-in page only (in the exam they would disturb, and enter the evidence) --

  const verdict = () => document.querySelector("[data-verdict]");
  let sounded = verdict() ? verdict().dataset.verdict : "";
  const play = (name) => new Audio(`/static/sounds/${name}.wav`).play().catch(() => { /* the browser waits for a first press */ });
  function tone() {
    const shown = verdict();
    if (!shown || shown.dataset.verdict === sounded) return;
    sounded = shown.dataset.verdict;
    play(shown.dataset.sound);
  }
  for (const button of document.querySelectorAll("[data-test-sound]")) button.addEventListener("click", () => play("ok"));

  // ---- the wall: the newest picture of each stream, at most once a second, never while the last is still on its way ------

  function pictures() {
    if (document.hidden) return;
    for (const image of document.querySelectorAll("img[data-still]")) {
      if (image.dataset.busy) continue;
      image.dataset.busy = "1";
      const next = new Image();
      next.onload = () => { image.src = next.src; image.hidden = false; delete image.dataset.busy; };
      next.onerror = () => { image.hidden = true; delete image.dataset.busy; };
      next.src = `${image.dataset.still}?n=${Date.now()}`;
    }
  }
  if (document.querySelector("img[data-still]")) { pictures(); setInterval(pictures, PICTURE_MS); }
})();
