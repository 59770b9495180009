const COLOURS = ["#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#8c6d31", "#6a51a3", "#7f7f7f", "#b2182b", "#1b7837", "#c7a500"];
const $ = id => document.getElementById(id);

function make(tag, text, parent, kind) {
  const node = document.createElement(tag);
  if (text !== undefined && text !== null) node.textContent = text;
  if (kind) node.className = kind;
  if (parent) parent.appendChild(node);
  return node;
}
// A command: lines break between words only, and a button copies it.
function command(text, parent) {
  const box = make("div", null, parent, "command"), code = make("code", null, box);
  text.split(" ").forEach((word, i) => { if (i) code.append(" "); make("span", word, code); });
  const button = make("button", "copy", box, "screen");
  button.type = "button";
  button.onclick = () => navigator.clipboard.writeText(text).then(() => { button.textContent = "copied"; setTimeout(() => { button.textContent = "copy"; }, 1500); }, () => {});
}
const missing = value => value === null || value === undefined;
// Rounded as the other tables are: of two numbers that are equally near, the even one.
const fixed = (value, digits) => { const scaled = value * 10 ** digits, down = Math.floor(scaled); return (scaled - down === .5 ? (down + Math.abs(down % 2)) / 10 ** digits : value).toFixed(digits); };
const number = (value, digits = 3) => missing(value) ? "–" : fixed(value, digits);
const percent = (value, digits = 0) => missing(value) ? "–" : fixed(100 * value, digits) + " %";
const first = text => text.charAt(0).toUpperCase() + text.slice(1);

// A table; columns are names or {name, title}. With `sort`, a click on a heading sorts by the cells' `key`.
function table(where, columns, rows, sort) {
  const top = make("tr", null, make("thead", null, where)), inner = make("tbody", null, where);
  rows.forEach(cells => {
    const row = make("tr", null, inner);
    cells.forEach((cell, place) => {
      const node = make(place ? "td" : "th", null, row);
      if (!place) node.scope = "row";
      if (cell !== null && typeof cell === "object") {
        node.textContent = cell.text;
        if (cell.below) make("small", cell.below, node);
        if (cell.kind) node.className = cell.kind;
        if (!missing(cell.key)) node.dataset.key = cell.key;
      } else node.textContent = cell;
    });
  });
  columns.forEach((column, place) => {
    const head = make("th", null, top);
    head.scope = "col";
    if (column.title) head.title = column.title;
    if (!sort) { head.textContent = column.name || column; return; }
    const button = make("button", column.name || column, head);
    button.type = "button";
    button.onclick = () => {
      const down = head.getAttribute("aria-sort") !== "descending", key = row => row.children[place].dataset.key ?? row.children[place].textContent;
      [...top.children].forEach(other => other.removeAttribute("aria-sort"));
      head.setAttribute("aria-sort", down ? "descending" : "ascending");
      [...inner.children].sort((p, q) => {
        const a = key(p), b = key(q), order = isNaN(a) || isNaN(b) ? (isNaN(a) ? 1 : 0) - (isNaN(b) ? 1 : 0) || String(a).localeCompare(b) : b - a;
        return isNaN(a) !== isNaN(b) ? order : down ? order : -order;
      }).forEach(row => inner.appendChild(row));
    };
  });
}

// --- tip: what is under the pointer
function showTip(event, fill) {
  const tip = $("tip");
  tip.replaceChildren();
  fill(tip);
  tip.style.display = "block";
  const right = event.clientX + 300 > innerWidth;
  tip.style.left = Math.max(4, right ? event.clientX - tip.offsetWidth - 14 : event.clientX + 14) + "px";
  tip.style.top = Math.max(4, Math.min(event.clientY + 14, innerHeight - tip.offsetHeight - 8)) + "px";
}
const hideTip = () => { $("tip").style.display = "none"; };
function fillExample(box, example, modality) {
  if (example.is && modality === "image") { const picture = make("img", null, box); picture.src = example.is; picture.alt = ""; }
  else if (example.is) make("div", example.is, box);
  make("div", example.domain + (missing(example.label) ? "" : " · " + example.label), box, "soft");
}

// --- map: the same examples in one or more layouts, coloured by domain or class
function shape(pen, x, y, size, index) {
  pen.fillStyle = COLOURS[index % COLOURS.length];
  pen.beginPath();
  const kind = (index + Math.floor(index / COLOURS.length)) % 4;
  if (kind === 0) pen.arc(x, y, size, 0, 7);
  else if (kind === 1) pen.rect(x - size * .85, y - size * .85, size * 1.7, size * 1.7);
  else if (kind === 2) { pen.moveTo(x, y - size * 1.15); pen.lineTo(x + size, y + size * .8); pen.lineTo(x - size, y + size * .8); }
  else { pen.moveTo(x, y - size * 1.2); pen.lineTo(x + size * 1.2, y); pen.lineTo(x, y + size * 1.2); pen.lineTo(x - size * 1.2, y); }
  pen.fill();
}
function maps(box, examples, views, domains, modality) {
  const bar = make("div", null, box, "bar"), choose = (name, options) => {
    const select = make("select", null, make("label", name + " ", bar));
    options.forEach(([value, text]) => { make("option", text, select).value = value; });
    return select;
  };
  const layout = choose("layout", Object.keys(views[0].layouts).reverse().map(name => [name, name]));
  const colour = choose("colour", [["domain", "domain"], ["label", "class"]]);
  make("span", "point at an example to see it; click a name to hide it", bar, "soft screen");
  const grid = make("div", null, box, views.length > 1 ? "maps" : "maps one"), legend = make("div", null, box, "bar");
  const value = example => colour.value === "domain" ? example.domain : (missing(example.label) ? "no label" : example.label);
  const hidden = new Set();
  let groups = [];
  const drawn = views.map(view => {
    const figure = make("figure", null, grid);
    if (view.name) make("figcaption", view.name, figure);
    const canvas = make("canvas", null, figure);
    canvas.setAttribute("role", "img");
    canvas.setAttribute("aria-label", `Map of the examples${view.name ? ": " + view.name : ""}; the tables hold the distances in numbers`);
    const one = { canvas, view, places: [] };
    const look = event => {
      const frame = canvas.getBoundingClientRect(), x = event.clientX - frame.left, y = event.clientY - frame.top;
      let best = -1, near = 144;
      one.places.forEach(([px, py], i) => {
        if (hidden.has(value(examples[i]))) return;
        const d = (px - x) ** 2 + (py - y) ** 2;
        if (d < near) { near = d; best = i; }
      });
      if (best < 0) hideTip(); else showTip(event, tip => fillExample(tip, examples[best], modality));
    };
    canvas.addEventListener("pointermove", look);
    canvas.addEventListener("pointerdown", look);
    canvas.addEventListener("pointerleave", hideTip);
    new ResizeObserver(paint).observe(canvas);
    return one;
  });
  function paint() {
    const index = new Map(groups.map((name, i) => [name, i])), ratio = window.devicePixelRatio || 1, pad = 14;
    drawn.forEach(one => {
      const width = one.canvas.clientWidth, height = one.canvas.clientHeight, pen = one.canvas.getContext("2d");
      one.canvas.width = width * ratio; one.canvas.height = height * ratio;
      pen.setTransform(ratio, 0, 0, ratio, 0, 0);
      pen.globalAlpha = .7;
      const size = examples.length > 1500 ? 2.6 : width < 420 ? 3.2 : 4;
      one.places = one.view.layouts[layout.value].map(([x, y]) => [pad + x * (width - 2 * pad), pad + (1 - y) * (height - 2 * pad)]);
      examples.forEach((e, i) => { const name = value(e); if (!hidden.has(name)) shape(pen, ...one.places[i], size, index.get(name)); });
    });
  }
  function relabel() {
    hidden.clear();
    const counts = new Map();
    examples.forEach(e => counts.set(value(e), (counts.get(value(e)) || 0) + 1));
    groups = colour.value === "domain" ? domains.filter(name => counts.has(name)) : [...counts.keys()].sort((p, q) => counts.get(q) - counts.get(p));
    legend.replaceChildren();
    groups.forEach((name, index) => {
      const button = make("button", null, legend), mark = document.createElement("canvas");
      button.type = "button"; button.setAttribute("aria-pressed", "true");
      mark.width = mark.height = 28;
      shape(mark.getContext("2d"), 14, 14, 9, index);
      button.append(mark, name);
      button.onclick = () => { if (!hidden.delete(name)) hidden.add(name); button.setAttribute("aria-pressed", String(!hidden.has(name))); paint(); };
    });
    paint();
  }
  layout.onchange = paint; colour.onchange = relabel;
  relabel();
}
