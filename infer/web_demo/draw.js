// The first part of the viewer: what is drawn on the photo. All parts run once, one after the other, as the body of a
// function that gradio calls with `element`, `trigger`, `props` and `watch`. Whatever comes from a server or a file is
// shown as text.
const part = (name) => element.querySelector(`[data-part="${name}"]`);
const SVG = "http://www.w3.org/2000/svg";
const calm = matchMedia("(prefers-reduced-motion: reduce)");

let scene = null;
let spoken = new Set(); // identities of sentences that were shown to their end
let told = new Map(); // of sentences that are being told, by the keys of their prompts: how many tokens were
let telling = 0; // which telling of the sentences is going on: a newer one ends it
let labelled = []; // where tags are: a new one goes beneath those that it would cover
let drawing = null; // the box that is being drawn, {x1, y1, x2, y2}

function make(tag, attributes = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
  node.append(...children);
  return node;
}

function say(text, isError = false) {
  part("says").textContent = text || "\u00a0";
  part("says").classList.toggle("error", isError);
}

// Shapes on the photo, in its pixels

function shape(tag, attributes) {
  const node = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
  part("drawing").append(node);
}

const line = (x1, y1, x2, y2, look) => shape("line", { x1, y1, x2, y2, ...look });
const box = ([x1, y1, x2, y2], look) => shape("rect", { x: x1, y: y1, width: x2 - x1, height: y2 - y1, ...look });
const dot = ([x, y], look) => line(x, y, x, y, { class: "dot", ...look });

function label(object) {
  const [x1, y1] = object.box;
  const text = object.score === null ? object.name : `${object.name} ${Math.round(100 * object.score)}%`;
  const tag = make("span", { style: `left: ${(100 * x1) / scene.width}%; top: ${(100 * y1) / scene.height}%` }, text);
  tag.style.setProperty("--color", object.color);
  part("labels").append(tag);
  let { left, right, top, bottom } = tag.getBoundingClientRect();
  const height = bottom - top, start = top;
  const overlaps = (place) => left < place.right && right > place.left && top < place.bottom && bottom > place.top;
  for (const place of labelled) if (overlaps(place)) [top, bottom] = [place.bottom, place.bottom + height];
  tag.style.marginTop = `${top - start}px`;
  labelled.push({ left, right, top, bottom });
  labelled.sort((one, other) => one.top - other.top);
}

function drawObject(object) {
  const isAside = !object.pointed && scene.objects.some(({ pointed }) => pointed); // another one is pointed at
  const look = { style: `--color: ${object.color}; opacity: ${isAside ? 0.35 : 1}` };
  if (object.outlines) {
    const path = object.outlines.map((points) => `M${points.join("L")}Z`).join("");
    shape("path", { class: "mask", d: path, ...look });
  }
  box(object.box, { class: object.pointed ? "box pointed" : "box", ...look });
  for (const [x1, y1, x2, y2, color] of object.bones ?? []) line(x1, y1, x2, y2, { class: "bone", style: `--color: ${color}` });
  for (const [x, y, color] of object.points ?? []) dot([x, y], { style: `--color: ${color}` });
  if (!isAside) label(object);
}

// What the first `count` tokens of a sentence have said so far.
function drawGrowth(chips, count) {
  const corners = {}, lines = {};
  chips.slice(0, count).forEach((chip, index) => {
    if (chip.box) {
      const known = (corners[chip.item] ??= { box: chip.box, roles: new Set() });
      known.roles.add(chip.role);
    } else if (chip.point && chip.role === "x") {
      if (chip.name) dot(chip.point, { class: "dot growing" });
      else (lines[chip.item] ??= []).push(chip.point);
    } else if (chip.role === "y" && index === count - 1) {
      line(0, chip.y, scene.width, chip.y, { class: "guide" });
    }
  });
  for (const points of Object.values(lines)) shape("polyline", { class: "growing", points: points.join(" ") });
  for (const { box: place, roles } of Object.values(corners)) drawCorners(place, roles);
}

function drawCorners([x1, y1, x2, y2], roles) {
  const look = { class: "growing" };
  if (roles.has("x2")) return box([Math.min(x1, x2), Math.min(y1, y2), Math.max(x1, x2), Math.max(y1, y2)], look);
  if (!roles.has("x1")) return line(0, y1, scene.width, y1, { class: "guide" });
  if (!roles.has("y2")) return dot([x1, y1], { class: "dot growing" });
  line(x1, y1, x1, y2, look);
}

function clear() {
  part("drawing").replaceChildren();
  part("labels").replaceChildren();
  labelled = [];
}

function drawAll() {
  clear();
  scene.objects.forEach(drawObject);
  if (drawing) box(ordered(drawing), { class: "drawn" });
}

// Where a token lies
function highlight(chip) {
  if (telling) return;
  drawAll();
  const { width, height } = scene;
  if (chip.box) box(chip.box, { class: "place" });
  if (chip.y !== undefined) line(0, chip.y, width, chip.y, { class: "place" });
  if (chip.x !== undefined) line(chip.x, 0, chip.x, height, { class: "place" });
  if (chip.point) dot(chip.point, { class: "dot place" });
  if (!chip.box && !chip.point) box([0, 0, width, height], { class: "place" });
  const value = chip.y ?? chip.x;
  const where = value === undefined ? chip.text : `${chip.role} = ${value} px`;
  const role = value === undefined && chip.text !== chip.role ? `${chip.role}: ` : "";
  say(`${chip.name ? chip.name.replaceAll("_", " ") + ", " : ""}${role}${where} · probability ${chip.p.toFixed(3)}`);
}
