// One job, live: progress comes over the WebSocket, everything else as HTML from the server when something changed.
"use strict";

(() => {
  const root = document.getElementById("job");
  const lost = document.getElementById("lost");
  const spoken = document.getElementById("spoken");
  const calm = matchMedia("(prefers-reduced-motion: reduce)").matches;
  const card = () => root.querySelector("[data-version]");
  const finished = () => card().hasAttribute("data-finished");

  // ---- the piece of HTML

  let seen = { version: Number(card().dataset.version), shape: "" };
  let refreshedAt = 0;
  let pending = 0;
  let clock = performance.now();

  const refresh = async () => {
    pending = 0;
    refreshedAt = performance.now();
    let piece;
    try {
      piece = await headrace.piece(root.dataset.piece);
    } catch {
      setTimeout(refreshSoon, 2000);
      return;
    }
    if (!piece) return;
    const before = card().dataset.state;
    headrace.morphChildren(root, piece);
    clock = performance.now();
    document.title = root.querySelector("[data-title]").dataset.title;
    if (card().dataset.state !== before) spoken.textContent = `The job is ${card().dataset.state}.`;
    if (finished()) clearInterval(ticking);
    else if (Number(card().dataset.version) < seen.version) refreshSoon();
  };

  const refreshSoon = () => {
    pending ||= setTimeout(refresh, Math.max(0, refreshedAt + headrace.LEAST_PAUSE_MS - performance.now()));
  };

  // ---- what moves between two pieces

  const tick = () => {
    if (document.hidden) return;
    const since = (performance.now() - clock) / 1000;
    let total = 0;
    for (const row of root.querySelectorAll("[data-span]")) {
      if (row.dataset.seconds === "") continue;
      const seconds = Number(row.dataset.seconds) + ("growing" in row.dataset ? since : 0);
      total += seconds;
      if (!("growing" in row.dataset)) continue;
      row.querySelector("dd").textContent = headrace.duration(seconds);
      const stretch = root.querySelector(`.timing .span-${row.dataset.span}`);
      if (stretch) stretch.style.flexGrow = seconds * 1e6;
    }
    const sum = root.querySelector("[data-total]");
    if (sum) sum.textContent = headrace.duration(total);
  };

  const show = (job) => {
    const percent = `${Math.floor(job.progress * 100)}%`;
    const bar = root.querySelector(".progress .bar");
    if (!bar || job.state !== card().dataset.state) return;
    bar.firstElementChild.style.width = percent;
    bar.ariaValueNow = Math.floor(job.progress * 100);
    root.querySelector("[data-percent]").textContent = percent;
    if (job.note) root.querySelector("[data-note]").textContent = job.note;
    if (job.state === "running") document.title = `${percent} ${document.title.replace(/^\d+% /, "")}`;
  };

  const take = (job) => {
    if (job.version < seen.version) return;
    const shape = [job.state, job.attempt, job.worker, job.cancel_requested, job.open_parts, job.run_after].join();
    const changed = shape !== seen.shape;
    seen = { version: job.version, shape };
    show(job);
    if (changed && !job.finished_at) refreshSoon(); // the end is told by the close that follows
  };

  // ---- the connection

  const REFUSED = new Set([4401, 4404]);
  let failures = 0;

  const ended = async () => {
    await refresh();
    if (root.querySelector("[data-unnotified]")) setTimeout(refresh, headrace.LEAST_PAUSE_MS);
  };

  const closed = ({ code }) => {
    if (code === 1000) {
      ended();
      return;
    }
    refreshSoon();
    if (finished()) return;
    lost.hidden = false;
    if (code === 4403) {
      lost.textContent = `No live updates: the operator must add ${location.origin} to HEADRACE_TRUSTED_ORIGINS.`;
      return;
    }
    if (REFUSED.has(code)) {
      lost.textContent = "The server refuses live updates here; reload the page to see how the job is doing.";
      return;
    }
    failures += 1;
    setTimeout(connect, headrace.backoff(failures));
  };

  const connect = () => {
    if (finished()) {
      lost.hidden = true;
      return;
    }
    const socket = headrace.socket(root.dataset.socket);
    socket.addEventListener("open", () => {
      failures = 0;
      lost.hidden = true;
    });
    socket.addEventListener("message", ({ data }) => {
      const message = JSON.parse(data);
      if (message.type === "job") take(message.job);
    });
    socket.addEventListener("close", closed);
  };

  const ticking = setInterval(tick, calm ? 1000 : 100);
  if (finished()) clearInterval(ticking);
  else connect();
})();
