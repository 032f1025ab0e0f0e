// While a run is under way its report is provisional: the page looks for the next one, and shows it at the same place.
//
// Invariant: a finished report is never looked at again, nor one whose run gave no sign for a day.
"use strict";

(() => {
  const { el, built, renewed } = bench;
  const [SOON, LATE, LAST] = [3e3, 60e3, 24 * 3600e3]; // milliseconds between two looks, at first and at most; in all
  const SETTLED = 2000; // milliseconds that a view takes to fill itself, at most
  const bar = document.getElementById("live");
  const boxes = () => document.querySelectorAll("main .frame .scroll");

  /** Show the new report where the old one was read: its view is in the address, its place goes along. */
  function refresh() {
    const open = [...document.querySelectorAll("main details")].map((one) => [one.querySelector("summary").textContent, one.open]);
    history.replaceState({ top: scrollY, boxes: [...boxes()].map((one) => [one.scrollTop, one.scrollLeft]), open }, "");
    location.reload();
  }

  function restore({ top, boxes: places, open }) {
    const folds = new Map(open);
    for (const one of document.querySelectorAll("main details")) {
      const known = folds.get(one.querySelector("summary").textContent);
      if (known !== undefined) one.open = known;
    }
    const place = () => {
      boxes().forEach((one, i) => places[i] && one.scrollTo(places[i][1], places[i][0]));
      scrollTo(0, top);
    };
    const growth = new ResizeObserver(place); // some of a view comes later
    const end = () => growth.disconnect();
    growth.observe(document.getElementById("main"));
    setTimeout(end, SETTLED);
    for (const event of ["wheel", "pointerdown", "keydown"]) addEventListener(event, end, { once: true });
  }

  /** Whether somebody writes or marks something, which a new page would take away. */
  const busy = () => document.activeElement.matches("input, select") || !getSelection().isCollapsed;

  const stopped = (report) => `${report.said} Its run is not under way any more; the same command goes on with it.`;

  function say(text, ...more) {
    bar.hidden = !text;
    bar.replaceChildren(text, ...more);
  }

  function watch(shown) {
    const begun = Date.now();
    let wait = SOON;
    const later = () => {
      if (Date.now() - begun < LAST) setTimeout(look, wait);
      wait = Math.min(LATE, 1.1 * wait);
    };
    async function look() {
      let found;
      try {
        found = await renewed();
      } catch {
        found = shown; // it is being written
      }
      if (found.stamp === shown.stamp && found.to_come === shown.to_come) {
        if (found.live) later();
        else say(stopped(found));
      } else if (busy()) {
        say(shown.said, " ", el("button", { type: "button", cls: "quiet", on: { click: refresh } }, "Show the newer report"));
        wait = SOON;
        later();
      } else refresh();
    }
    say(`${shown.said} This page shows the next report by itself.`);
    later();
  }

  const seen = history.state;
  history.replaceState(null, "");
  if (seen && seen.open) restore(seen);
  const shown = built();
  if (shown && shown.live) watch(shown);
  else if (shown && shown.to_come) say(stopped(shown));
})();
