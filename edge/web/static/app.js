// What the pages do in the browser, beside htmx: the clock, how old the data are, held buttons, tones, pictures of the wall.
// The page holds no state: everything shown is asked of the room again after each change and each reconnect.
"use strict";
(() => {
  const STALE_MS = 5000, QUIET_MS = 3500, AGAIN_MS = 1500, PICTURE_MS = 1000;
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
      if (age > QUIET_MS) ask();
    }
  }

  // No heartbeat, but the room may answer still (a proxy that holds events back): then the panels are asked for without them. Only the
  // answer to that makes the page young again, because only it brings what the panels show.
  let asked = 0;
  function ask() {
    if (!window.htmx || performance.now() - asked < 1500) return;
    asked = performance.now();
    for (const panel of document.querySelectorAll("[data-live] [hx-select-oob]")) htmx.trigger(panel, "again");
  }
  body.addEventListener("htmx:afterRequest", (event) => {
    if (!event.detail.successful || !event.detail.elt.matches("[data-live] [hx-select-oob]")) return;
    heard = performance.now();
    const find = document.getElementById("find");       // what was found says where each stands: it keeps up
    if (find && find.value && find.hasAttribute("hx-post")) htmx.trigger(find, "again");
  });
  tick();
  setInterval(tick, 500);

  // ---- panels: leave alone what did not change, so that nothing flickers, loses focus, or is read out twice ----------

  body.addEventListener("htmx:oobBeforeSwap", (event) => {
    const fragment = event.detail.fragment;
    const next = fragment instanceof DocumentFragment ? fragment.firstElementChild : fragment;
    const text = (element) => element.innerHTML.replace(/value="[0-9a-f]{32}"/g, "").trim();     // a request id is new each time
    const same = next && next.className === event.detail.target.className && next.hidden === event.detail.target.hidden
      && text(next) === text(event.detail.target);
    if (same) event.detail.shouldSwap = false;
    else if (event.detail.target.id === "gate" && fragment.querySelector) remember(event.detail.target, fragment);
  });

  // The entrance display: whoever was verified reads it for three seconds at least (U4). If the next card comes sooner it has the place,
  // and those before stand small beneath it, the latest first, each for the rest of its own time.
  const SHOWN_MS = 3100, LINES = 5;       // three seconds on the glass: the first picture of it comes a moment after
  let shownAt = performance.now();
  function remember(gate, fragment) {
    const old = gate.querySelector("[data-at]"), next = fragment.querySelector("[data-at]"), lines = document.getElementById("previous");
    if (!next || (old && old.dataset.at === next.dataset.at)) return;
    const left = SHOWN_MS - (performance.now() - shownAt);
    shownAt = performance.now();
    if (!old || !old.dataset.short || left <= 0) return;
    const line = document.createElement("span");
    line.textContent = old.dataset.short;
    lines.prepend(line);
    if (lines.childElementCount > LINES) lines.lastElementChild.remove();
    lines.hidden = false;
    setTimeout(() => { line.remove(); lines.hidden = !lines.firstElementChild; }, left);
  }
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

  // In a form the Enter key presses the first button. Where that would be wrong, or only half a press, a shut one stands first (parts.html,
  // no_enter), and Enter presses none.
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
      setTimeout(() => { field.value = "0"; });         // the next try is held anew
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

  // ---- tones: once for each verdict, once for the same card in three seconds, on the check-in page only. While the exam runs there is
  // none (it would disturb, and enter the evidence): the room then names no sound ---------------------------------------------------

  const CARD_MS = 3000;
  const verdict = () => document.querySelector("[data-verdict]");
  let sounded = verdict() ? verdict().dataset.verdict : "";
  const cards = new Map();    // card -> when it last sounded
  const play = (name) => new Audio(`/static/sounds/${name}.wav`).play().then(() => soundless(false), (error) => soundless(error.name === "NotAllowedError"));
  const soundless = (yes) => { const note = document.getElementById("soundless"); if (note) note.hidden = !yes; };
  document.addEventListener("pointerdown", () => soundless(false));       // this press lets the browser play the next one
  function tone() {
    const shown = verdict();
    if (!shown || shown.dataset.verdict === sounded) return;
    sounded = shown.dataset.verdict;
    const card = shown.dataset.card || sounded, again = performance.now() - (cards.get(card) ?? -CARD_MS) < CARD_MS;
    if (!shown.dataset.sound || again) return;
    cards.set(card, performance.now());
    play(shown.dataset.sound);
  }
  for (const button of document.querySelectorAll("[data-print]")) button.addEventListener("click", () => window.print());
  for (const button of document.querySelectorAll("[data-test-sound]")) button.addEventListener("click", () => play("ok"));

  // ---- keys: an element with data-key is pressed (a field is entered) by that key; a letter or "/" only where nobody is typing --------

  const typing = (element) => element instanceof HTMLElement && element.matches("input:not([type=checkbox]), textarea, select");
  document.addEventListener("keydown", (event) => {
    if (!event.key || event.ctrlKey || event.altKey || event.metaKey || event.isComposing || event.defaultPrevented) return;    // no key: autofill
    if (event.key.length === 1 && typing(event.target)) return;
    const meant = [...document.querySelectorAll("[data-key]")].find((each) => each.dataset.key === event.key && each.offsetParent);
    if (!meant) return;
    event.preventDefault();
    if (!typing(meant)) { meant.click(); return; }
    if (event.key === "Escape") { empty(meant); return; }
    meant.focus();
    if (meant.select) meant.select();
  });

  // The search field: Escape empties it, and what was found goes with it.
  const empty = (field) => {
    field.value = "";
    const found = document.getElementById(field.dataset.found || "");
    if (found) found.replaceChildren();
    field.blur();
  };
  document.addEventListener("keydown", (event) => {
    if (event.key === "Escape" && event.target.matches?.("input[data-found]")) { event.preventDefault(); empty(event.target); }
  });

  // ---- a reader that types: a number in one burst, then Enter. Whoever types by hand is never so fast; where the burst went into a
  // field, the field gets back what it held ---------------------------------------------------------------------------------------

  const BURST_CHARS = 15, BURST_MS = 300, BURST_GAP_MS = 60;
  const reader = document.querySelector("[data-wedge]");
  let burst = [], before = null;
  // With a Chinese input method on, the key's name is "Process"; its code still tells digits and X.
  const charOf = (event) => {
    if (event.key.length === 1) return event.key;
    const code = event.key === "Process" ? /^(?:Digit|Numpad)([0-9])$|^Key(X)$/.exec(event.code) : null;
    return code ? code[1] || code[2] : "";
  };
  function wedge(event) {
    if (!event.key || event.ctrlKey || event.altKey || event.metaKey || event.key === "Shift" || event.key === "CapsLock") return;
    const last = burst[burst.length - 1], char = charOf(event);
    if (last && (event.repeat || event.timeStamp - last.at > BURST_GAP_MS)) burst = [];
    if (char) {
      if (!burst.length) before = typing(event.target) && "value" in event.target ? { field: event.target, value: event.target.value } : null;
      burst.push({ char, at: event.timeStamp });
      if (burst.length > 64) burst.shift();
      return;
    }
    const took = burst, held = before;
    burst = [];
    if (event.key !== "Enter" || took.length < BURST_CHARS) return;
    const ends = took.slice(-BURST_CHARS);
    if (ends[BURST_CHARS - 1].at - ends[0].at >= BURST_MS) return;
    event.preventDefault();
    event.stopImmediatePropagation();
    if (held) held.field.value = held.value;
    typed(took.map((each) => each.char).join(""));
  }
  // What a reader typed has the place of what was found, until somebody searches again.
  document.addEventListener("input", (event) => { if (event.target.id === "find") delete event.target.dataset.typed; });
  body.addEventListener("htmx:beforeRequest", (event) => {
    if (event.detail.elt.id === "find" && event.detail.elt.dataset.typed) event.preventDefault();
  });
  function typed(number) {
    const find = document.getElementById("find");
    if (find) find.dataset.typed = "1";
    const id = Array.from(crypto.getRandomValues(new Uint8Array(16)), (byte) => byte.toString(16).padStart(2, "0")).join("");
    htmx.ajax("POST", reader.dataset.wedge, { source: reader, target: reader, swap: "innerHTML", values: { number, request_id: id } });
  }
  if (reader) document.addEventListener("keydown", wedge, true);

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
