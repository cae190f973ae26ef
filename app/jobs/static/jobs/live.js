// What every page shares: pieces of HTML that are kept up to date, the theme, forms that are sent only once.
"use strict";

const headrace = {
  LEAST_PAUSE_MS: 700, // between two looks at what changes all the time

  /** Seconds as the `duration` filter of templatetags/headrace.py shows them. */
  duration(seconds) {
    if (seconds < 0.00005) return "0 ms";
    if (seconds < 0.0995) return `${(seconds * 1000).toFixed(seconds < 0.00995 ? 1 : 0)} ms`;
    if (seconds < 59.95) return `${seconds.toFixed(seconds < 9.995 ? 2 : 1)} s`;
    const whole = Math.round(seconds);
    const two = (number) => String(number).padStart(2, "0");
    if (whole < 3600) return `${Math.floor(whole / 60)} min ${two(whole % 60)} s`;
    return `${Math.floor(whole / 3600)} h ${two(Math.floor(whole / 60) % 60)} min`;
  },

  /** A WebSocket to an address of ours. */
  socket(address) {
    return new WebSocket(new URL(address, location.href.replace(/^http/, "ws")));
  },

  /** Milliseconds to wait before connecting again, after so many failures. */
  backoff(failures) {
    return Math.min(15_000, 500 * 2 ** (failures - 1)) * (0.5 + Math.random() / 2);
  },

  /** A piece of HTML from the server; null if we have been signed out (the page is then reloaded). */
  async piece(url) {
    const response = await fetch(url, { headers: { Accept: "text/html" }, signal: AbortSignal.timeout(10_000) });
    if (response.redirected) {
      location.reload();
      return null;
    }
    if (!response.ok) throw new Error(`${url} answered ${response.status}`);
    const template = document.createElement("template");
    template.innerHTML = await response.text();
    return template.content;
  },

  /** Change `from` into `to`, touching only what differs: focus, scroll and transitions survive. */
  morph(from, to) {
    for (const { name } of [...from.attributes]) {
      if (!to.hasAttribute(name) && name !== "open") from.removeAttribute(name);
    }
    for (const { name, value } of to.attributes) {
      if (from.getAttribute(name) !== value) from.setAttribute(name, value);
    }
    headrace.morphChildren(from, to);
  },

  morphChildren(from, to) {
    let here = from.firstChild;
    for (const wanted of [...to.childNodes]) {
      const key = wanted.dataset?.key;
      if (here && headrace.blank(here) && !headrace.alike(here, wanted)) {
        here = here.nextSibling;
        here?.previousSibling.remove();
      }
      const match = (key && [...from.children].find((child) => child.dataset.key === key)) || here;
      if (match && headrace.alike(match, wanted)) {
        if (match !== here) from.insertBefore(match, here);
        if (wanted.nodeType === Node.ELEMENT_NODE) headrace.morph(match, wanted);
        else if (match.data !== wanted.data) match.data = wanted.data;
        here = match === here ? here.nextSibling : here;
      } else {
        from.insertBefore(wanted, here);
      }
    }
    while (here) {
      const next = here.nextSibling;
      here.remove();
      here = next;
    }
  },

  blank(node) {
    return node.nodeType === Node.TEXT_NODE && node.data.trim() === "";
  },

  alike(one, other) {
    return one.nodeType === other.nodeType && one.nodeName === other.nodeName && one.dataset?.key === other.dataset?.key;
  },
};

// <section data-live="URL">: fetched again every 2 s while something in it is [data-open], every 10 s otherwise. With a
// data-socket that is open: when that tells of a change, and every minute. Not at all while the page is hidden.
for (const section of document.querySelectorAll("[data-live]")) {
  const mark = document.querySelector("[data-live-mark]");
  let timer = 0;
  let failures = 0;
  let busy = false;
  let news = false;
  let told = false; // by the socket, of every change
  let askedAt = -Infinity;

  const refresh = async () => {
    [busy, news, askedAt] = [true, false, performance.now()];
    try {
      const piece = await headrace.piece(section.dataset.live);
      if (piece) headrace.morphChildren(section, piece);
      failures = 0;
    } catch {
      failures += 1;
    }
    if (mark) {
      mark.classList.toggle("broken", failures > 0);
      const words = failures ? mark.dataset.broken : mark.dataset.live;
      if (mark.textContent !== words) mark.textContent = words;
    }
    busy = false;
    later();
  };

  const pause = () => {
    if (told && !failures) return 60_000;
    const polled = section.querySelector("[data-open]") ? 2000 : 10_000;
    return Math.min(polled * 2 ** Math.min(failures, 3), 16_000);
  };

  const later = () => {
    clearTimeout(timer);
    if (busy || document.hidden) return;
    const soon = Math.max(0, askedAt + headrace.LEAST_PAUSE_MS - performance.now());
    timer = setTimeout(refresh, news && !failures ? soon : pause());
  };

  const look = () => {
    news = true;
    if (!failures) later();
  };

  const follow = (attempt) => {
    if (document.hidden) {
      document.addEventListener("visibilitychange", () => follow(attempt), { once: true });
      return;
    }
    const socket = headrace.socket(section.dataset.socket);
    socket.addEventListener("message", ({ data }) => {
      if (!told || JSON.parse(data).type === "job") look(); // the first one: for what happened before it was open
      told = true;
    });
    socket.addEventListener("close", ({ code }) => {
      const again = told ? 1 : attempt + 1;
      if (told) {
        told = false;
        later(); // but no later for each attempt that fails
      }
      if (![4401, 4403, 4404].includes(code)) setTimeout(follow, headrace.backoff(again), again);
    });
  };

  document.addEventListener("visibilitychange", () => {
    failures = 0;
    look();
  });
  later();
  if (section.dataset.socket) follow(0);
}

// A form is sent once, however often its button is pressed; "back" brings the button back.
for (const form of document.querySelectorAll("form[data-once]")) {
  const button = form.querySelector("button:not([type=button])");
  form.addEventListener("submit", (event) => {
    if (button.ariaDisabled === "true") event.preventDefault();
    button.ariaDisabled = "true";
  });
  window.addEventListener("pageshow", () => (button.ariaDisabled = null));
}

for (const select of document.querySelectorAll("select[data-submits]")) {
  select.addEventListener("change", () => select.form.requestSubmit());
}

for (const group of document.querySelectorAll("[data-theme-choice]")) {
  const buttons = [...group.querySelectorAll("button")];
  const show = () => {
    const chosen = document.documentElement.dataset.theme ?? "auto";
    for (const button of buttons) button.ariaPressed = String(button.value === chosen);
  };
  group.addEventListener("click", ({ target }) => {
    if (!buttons.includes(target)) return;
    if (target.value === "auto") delete document.documentElement.dataset.theme;
    else document.documentElement.dataset.theme = target.value;
    try {
      localStorage.setItem("theme", target.value);
    } catch {
      // Storage is off: the choice lasts as long as the page.
    }
    show();
  });
  group.hidden = false;
  show();
}

for (const menu of document.querySelectorAll("details.menu")) {
  document.addEventListener("click", ({ target }) => menu.contains(target) || menu.removeAttribute("open"));
  menu.addEventListener("keydown", ({ key }) => {
    if (key !== "Escape") return;
    menu.removeAttribute("open");
    menu.querySelector("summary").focus();
  });
}
