"use strict";
// Keeps what is on the page up to date: asks for the same page again, and takes over the parts marked
// data-live. A part in which somebody is at work stays as it is. Without this script the page works, too.
(() => {
  const EVERY_MS = 5000, LATE_MS = 30000, SOON_MS = 8000;
  const trouble = document.getElementById("trouble");
  const controls = document.getElementById("controls");
  const parts = () => [...document.querySelectorAll("[data-live][id]")];
  let paused = false, timer = 0, failures = 0;

  // Somebody types, has ticked, opened or marked something in it.
  function isInUse(part) {
    const active = document.activeElement;
    if (part.contains(active) && active.matches("input, select, textarea, summary")) return true;
    if (part.querySelector("details[open], input:checked, dialog[open]")) return true;
    if ([...part.querySelectorAll("input, textarea")].some((each) => each.value !== each.defaultValue)) return true;
    const marked = getSelection();
    return marked.rangeCount > 0 && !marked.isCollapsed && marked.containsNode(part, true);
  }

  // The same place within the page: what had the focus, and how far a table was moved sideways.
  function replace(part, fresh) {
    if (!fresh || fresh.innerHTML === part.innerHTML) return;
    const active = part.contains(document.activeElement) ? document.activeElement : null;
    const links = [...part.querySelectorAll("a[href], [tabindex]")];
    const place = active ? links.indexOf(active) : -1, href = active && active.getAttribute("href");
    const moved = [...part.querySelectorAll(".wide, pre")].map((each) => [each.scrollLeft, each.scrollTop]);
    part.replaceChildren(...document.importNode(fresh, true).childNodes);
    [...part.querySelectorAll(".wide, pre")].forEach((each, index) => {
      if (moved[index]) [each.scrollLeft, each.scrollTop] = moved[index];
    });
    if (place >= 0) {
      const now = [...part.querySelectorAll("a[href], [tabindex]")];
      const same = now.find((each) => href && each.getAttribute("href") === href) || now[place];
      if (same) same.focus({ preventScroll: true });
    }
    dress(part);
  }

  // Exact times in the browser's own zone, and a button to copy a command.
  function dress(part) {
    for (const each of part.querySelectorAll("time[datetime]")) {
      const local = new Date(each.dateTime).toLocaleString(undefined, { timeZoneName: "short" });
      if (!each.title.includes("\n")) each.title += `\n${local}`;
    }
    if (!navigator.clipboard) return;
    for (const each of part.querySelectorAll("code[data-copy]")) {
      const button = document.createElement("button");
      button.type = "button";
      button.textContent = "copy";
      button.setAttribute("aria-label", `copy ${each.textContent}`);
      button.addEventListener("click", async () => {
        await navigator.clipboard.writeText(each.textContent);
        button.textContent = "copied";
      });
      each.after(button);
      each.removeAttribute("data-copy");
    }
  }

  function say(text) {
    if (trouble.textContent !== text) trouble.textContent = text;
    document.body.classList.toggle("is-old", text !== "");
  }

  async function refresh() {
    try {
      const stop = AbortSignal.timeout(SOON_MS);
      const answer = await fetch(location.href, { signal: stop, cache: "no-store" });
      const fresh = new DOMParser().parseFromString(await answer.text(), "text/html");
      if (answer.ok && document.querySelector("[data-trouble]")) return location.reload(); // it is there again
      if (!answer.ok) {
        const why = fresh.querySelector("[data-trouble]");
        throw new Error(why ? why.textContent : `the answer was ${answer.status}`);
      }
      for (const part of parts()) if (!isInUse(part)) replace(part, fresh.getElementById(part.id));
      const clock = document.getElementById("clock");
      replace(clock, fresh.getElementById("clock"));
      failures = 0;
      say("");
    } catch (error) {
      failures += 1;
      const because = error instanceof TypeError ? "the server does not answer" : error.message;
      if (parts().length) say(`This is old, as nothing new can be read: ${because}. Trying again.`);
    }
    wait();
  }

  function wait() {
    clearTimeout(timer);
    if (!paused && !document.hidden) timer = setTimeout(refresh, Math.min(EVERY_MS * (1 + failures), LATE_MS));
  }

  const pause = document.createElement("button");
  pause.type = "button";
  pause.textContent = "pause";
  pause.addEventListener("click", () => {
    paused = !paused;
    pause.textContent = paused ? "go on" : "pause";
    if (paused) clearTimeout(timer); else refresh();
  });
  controls.append(pause);
  document.addEventListener("visibilitychange", () => (document.hidden ? clearTimeout(timer) : paused || refresh()));
  dress(document.body);
  wait();
})();
