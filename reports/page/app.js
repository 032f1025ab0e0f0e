// Addresses to views, and the colours.
"use strict";

(() => {
  const { el, here, overview, views } = bench;
  const main = document.getElementById("main");
  const PAGES = { table: "table", method: "methods", methods: "methods", samples: "samples" };

  function show() {
    const { parts, query } = here();
    const name = Object.hasOwn(views, parts[0] || "") ? parts[0] : "table";
    const content = overview() ? views[name](parts.slice(1), query) : [el("p", { cls: "empty" }, "page/data/overview.js is missing: keep the folder page/ beside index.html.")];
    main.className = name;
    main.replaceChildren(...content.flat(Infinity).filter(Boolean));
    for (const link of document.querySelectorAll("[data-page]")) {
      if (link.dataset.page === PAGES[name]) link.setAttribute("aria-current", "page");
      else link.removeAttribute("aria-current");
    }
    const heading = main.querySelector("h1");
    document.title = name === "table" || !heading ? "Steer or prompt?" : `${heading.textContent} · steer or prompt?`;
  }

  const THEMES = ["auto", "light", "dark"];
  const button = document.getElementById("theme");
  const kept = () => {
    try {
      return localStorage.getItem("steer-or-prompt-theme");
    } catch {
      return null; // a browser may refuse it to a file
    }
  };
  function paint(theme) {
    if (theme === "auto") document.documentElement.removeAttribute("data-theme");
    else document.documentElement.setAttribute("data-theme", theme);
    button.textContent = `Theme: ${theme}`;
    button.value = theme;
  }
  button.addEventListener("click", () => {
    const next = THEMES[(THEMES.indexOf(button.value) + 1) % THEMES.length];
    paint(next);
    try {
      localStorage.setItem("steer-or-prompt-theme", next);
    } catch {
      // then it lasts until the page is closed
    }
  });
  paint(THEMES.includes(kept()) ? kept() : "auto");

  window.addEventListener("hashchange", () => {
    show();
    window.scrollTo(0, 0);
    main.focus({ preventScroll: true });
  });
  show();
})();
