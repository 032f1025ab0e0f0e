// What every view uses: data files, elements made of text, numbers, addresses.
//
// Invariant: text from data becomes text nodes and attribute values, never markup; a script is loaded only from
// the page's own data folder (the content-security policy and a trusted-types policy hold the page to both).
"use strict";

const bench = (() => {
  const KEPT = 80; // answer files in memory at once
  const have = new Map();
  const coming = new Map();

  const check = (url) => {
    if (!/^page\/data\/([0-9a-f]{10}\/[0-9a-z-]+\.js|built\.js\?\d+)$/.test(url)) throw new TypeError(`${url} is not a data file`);
    return url;
  };
  const policy = window.trustedTypes
    ? window.trustedTypes.createPolicy("data-files", { createScriptURL: check })
    : { createScriptURL: check };

  function put(name, value) {
    have.set(name, value);
    const answers = [...have.keys()].filter((key) => /-(test|select)-\d+$/.test(key));
    for (const key of answers.slice(0, Math.max(0, answers.length - KEPT))) have.delete(key);
  }

  /** The value of a data file; files are scripts, since `file://` lets a page load those and fetch nothing. */
  function load(name) {
    return have.has(name) ? Promise.resolve(have.get(name)) : read(name);
  }
  function read(name, mark = "") {
    if (coming.has(name)) return coming.get(name);
    const made = new Promise((resolve, reject) => {
      const script = document.createElement("script");
      const end = (act) => {
        coming.delete(name);
        script.remove();
        act();
      };
      script.onload = () => end(() => resolve(have.get(name)));
      script.onerror = () =>
        end(() => reject(new Error(`page/data/${name}.js is missing: keep the folder page/ beside index.html`)));
      script.src = policy.createScriptURL(`page/data/${name}.js${mark}`);
      document.head.append(script);
    });
    coming.set(name, made);
    return made;
  }

  const SVG = "http://www.w3.org/2000/svg";
  const PROPERTIES = new Set(["value", "checked", "disabled", "hidden", "open", "tabIndex", "placeholder"]);

  function fill(node, props, children) {
    for (const [name, value] of Object.entries(props || {})) {
      if (value === undefined || value === null || value === false) continue;
      if (name === "on") for (const [event, act] of Object.entries(value)) node.addEventListener(event, act);
      else if (name === "css") for (const [key, v] of Object.entries(value)) node.style.setProperty(key, v);
      else if (PROPERTIES.has(name)) node[name] = value;
      else node.setAttribute(name === "cls" ? "class" : name, value === true ? "" : String(value));
    }
    for (const child of children.flat(Infinity)) {
      if (child !== undefined && child !== null && child !== false) node.append(child); // strings become text nodes
    }
    return node;
  }
  const el = (tag, props, ...children) => fill(document.createElement(tag), props, children);
  const svg = (tag, props, ...children) => fill(document.createElementNS(SVG, tag), props, children);

  const MINUS = "\u2212";
  function number(value, digits = 2, signed = false) {
    if (value === null || value === undefined) return "–";
    const text = Math.abs(value).toFixed(digits);
    const negative = value < 0 && Number(text) !== 0;
    return (negative ? MINUS : signed ? "+" : "") + text;
  }
  function interval([, low, high], digits = 2, signed = false) {
    return low === null ? "" : `[${number(low, digits, signed)}, ${number(high, digits, signed)}]`;
  }
  /** The ranks a row may have, as "3" or "1–14"; "" for none. */
  function ranks(pair) {
    return !pair ? "" : pair[0] === pair[1] ? String(pair[0]) : `${pair[0]}–${pair[1]}`;
  }

  function chance(p) {
    if (p === null || p === undefined) return "–";
    return p < 0.001 ? "<.001" : p < 1 ? p.toFixed(3).replace(/^0/, "") : "1";
  }
  const brief = (value) => (value === null || value === undefined ? "–" : String(Number(value.toPrecision(4))));
  const many = (n, noun) => `${n.toLocaleString("en")} ${noun}${n === 1 ? "" : "s"}`;

  /** The address of a view: `#/path/parts?key=value`. */
  function to(parts, query = {}) {
    const search = new URLSearchParams();
    for (const [key, value] of Object.entries(query)) for (const one of [value].flat()) if (one) search.append(key, one);
    const tail = search.toString();
    return `#/${parts.map(encodeURIComponent).join("/")}${tail ? `?${tail}` : ""}`;
  }
  function here() {
    const [path, tail = ""] = location.hash.replace(/^#\/?/, "").split(/\?(.*)/s);
    let parts = [];
    try {
      parts = path.split("/").filter(Boolean).map(decodeURIComponent);
    } catch {
      // a damaged address is the front page
    }
    return { parts, query: new URLSearchParams(tail) };
  }
  /** Keep the address in step with the view without making it again. */
  function mark(address) {
    if (address !== location.hash) history.replaceState(history.state, "", address);
  }

  const overview = () => have.get("overview");
  const built = () => have.get("built");
  const renewed = () => read("built", `?${Date.now()}`); // an address of its own, so that no copy answers for the file
  return { put, load, built, renewed, el, svg, number, interval, ranks, chance, brief, many, to, here, mark, overview, views: {} };
})();
