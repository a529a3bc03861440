// The viewer: shows the photo, what was found on it, and the tokens. It runs once, as the body of a function that gradio
// calls with `element`, `trigger`, `props` and `watch`. Whatever comes from a server or a file is shown as text.
const part = (name) => element.querySelector(`[data-part="${name}"]`);
const SVG = "http://www.w3.org/2000/svg";
const DRAG_PX = 6; // a shorter drag is a click
const QUICK_MS = 12, SLOW_MS = 70, SENTENCE_MS = 2600; // between two tokens, and of a sentence if that allows it
const KINDS = {
  task: "task", y: "y", x: "x", class: "class", separator: "next polygon", invisible: "invisible", word: "word",
  other: "other", end: "end",
};
const calm = matchMedia("(prefers-reduced-motion: reduce)");

let scene = null;
let spoken = new Set(); // identities of sentences that were shown to their end
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

// Photos

function send(name, data) {
  say("Looking…");
  trigger("photo", { name, data });
}

function load(file) {
  if (!file) return;
  if (file.size > props.limit * 1e6) return say(`${file.name} has more than ${props.limit} MB; make it smaller`, true);
  const reader = new FileReader();
  reader.onload = () => send(file.name, reader.result.slice(reader.result.indexOf(",") + 1));
  reader.onerror = () => say(`${file.name} cannot be read`, true);
  reader.readAsDataURL(file);
}

function show(name) {
  for (const other of ["empty", "camera", "frame"]) part(other).hidden = other !== name;
  part("buttons").hidden = name !== "frame";
}

const stream = { tracks: [] };

async function openCamera() {
  try {
    const media = await navigator.mediaDevices.getUserMedia({ video: { facingMode: "environment" } });
    stream.tracks = media.getTracks();
    part("video").srcObject = media;
    show("camera");
    await part("video").play();
  } catch {
    say("There is no webcam that this page may use; browsers allow it at https:// addresses and on this machine.", true);
  }
}

function closeCamera() {
  for (const track of stream.tracks) track.stop();
  show(scene ? "frame" : "empty");
}

function snap() {
  const video = part("video");
  const canvas = make("canvas", { width: video.videoWidth, height: video.videoHeight });
  canvas.getContext("2d").drawImage(video, 0, 0);
  const data = canvas.toDataURL("image/jpeg", 0.92);
  closeCamera();
  send("webcam.jpg", data.slice(data.indexOf(",") + 1));
}

// Shapes on the photo, in its pixels

function shape(tag, attributes, layer = part("drawing")) {
  const node = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
  layer.append(node);
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

// Sentences

function chipOf(chip, isPrompt) {
  const node = make("span", { class: `chip ${chip.kind}${isPrompt ? " prompt" : ""}`, tabindex: "-1" }, chip.text);
  node.style.setProperty("--p", chip.p);
  node.addEventListener("mouseenter", () => highlight(chip));
  node.addEventListener("focus", () => highlight(chip));
  node.addEventListener("click", () => node.focus());
  return node;
}

function sentenceOf(sentence, isOpen) {
  const tokens = make("div", { class: "tokens" });
  const summary = make("summary", {}, make("b", {}, sentence.task), sentence.about ? ` of ${sentence.about}` : "");
  const node = make("details", {}, summary, tokens);
  node.open = isOpen;
  sentence.number = 0;
  sentence.fill = () => {
    const groups = {};
    tokens.replaceChildren(...sentence.prompt.map((chip) => chipOf(chip, true)), make("i", {}, "→"));
    sentence.nodes = sentence.samples[sentence.number].map((chip) => chipOf(chip, false));
    sentence.samples[sentence.number].forEach((chip, index) => {
      const group = (groups[chip.item] ??= make("span", { class: "item" }));
      if (!group.parentNode) tokens.append(group);
      group.append(sentence.nodes[index]);
    });
    tokens.querySelector(".chip").tabIndex = 0;
  };
  if (sentence.samples.length > 1) summary.append(sampleSwitch(sentence));
  sentence.fill();
  return node;
}

function sampleSwitch(sentence) {
  const text = () => `sample ${sentence.number + 1} of ${sentence.samples.length}`;
  const button = make("button", { type: "button", class: "sample", title: "show the next sample" }, text());
  button.addEventListener("click", (event) => {
    event.preventDefault(); // the summary stays as it is
    sentence.number = (sentence.number + 1) % sentence.samples.length;
    sentence.fill();
    button.textContent = text();
  });
  return button;
}

function showSentences() {
  const seen = new Set();
  const pointed = scene.objects.some((object) => object.pointed);
  const nodes = scene.sentences.map((sentence) => {
    const isFirst = !seen.has(sentence.task);
    seen.add(sentence.task);
    const isPointed = scene.objects[sentence.object]?.pointed;
    const node = sentenceOf(sentence, pointed ? isPointed || !sentence.about : isFirst);
    if (isPointed) node.classList.add("pointed");
    return node;
  });
  nodes.sort((one, other) => other.classList.contains("pointed") - one.classList.contains("pointed"));
  const captions = scene.captions.map((text) => make("blockquote", {}, text));
  part("sentences").replaceChildren(...captions, ...nodes);
  const kinds = new Set(scene.sentences.flatMap(({ prompt, samples }) => [...prompt, ...samples.flat()]).map(({ kind }) => kind));
  const shown = Object.keys(KINDS).filter((kind) => kinds.has(kind));
  part("legend").replaceChildren(...shown.map((kind) => make("span", { class: `chip ${kind}` }, KINDS[kind])));
  part("legend").hidden = !shown.length;
}

function follow(node) {
  const panel = part("sentences"), place = node.getBoundingClientRect(), frame = panel.getBoundingClientRect();
  if (place.bottom > frame.bottom) panel.scrollTop += place.bottom - frame.bottom + 12;
}

const longest = ({ samples }) => Math.max(...samples.map((chips) => chips.length));
const lists = ({ samples }) => samples[0].some((chip) => chip.box);

// What is being told is shown to its end at once.
function hush() {
  telling = 0;
  for (const node of part("sentences").querySelectorAll(".unsaid")) node.classList.remove("unsaid");
  for (const { id } of scene.sentences) spoken.add(id);
}

// Sentences that are new are spoken, those of one task at once, one task after the other; then everything is shown.
async function tell(fresh) {
  const turn = (telling = Date.now() + Math.random());
  const later = new Set(fresh.map(({ object }) => object)); // objects that are not known before they are spoken of
  const known = fresh.some(lists) ? [] : scene.objects.filter((_, index) => !later.has(index));
  const begun = [];
  for (const { nodes } of fresh) nodes.forEach((node) => node.classList.add("unsaid"));
  for (const task of new Set(fresh.map((sentence) => sentence.task))) {
    const act = fresh.filter((sentence) => sentence.task === task);
    const length = Math.max(...act.map(longest));
    const pause = Math.min(Math.max(SENTENCE_MS / length, QUICK_MS), SLOW_MS);
    const entries = act.map((sentence) => ({ sentence, count: 0 }));
    begun.push(...entries);
    for (let count = 1; count <= length; count++) {
      clear();
      known.forEach(drawObject);
      for (const entry of entries) entry.count = count;
      for (const { sentence, count } of begun) for (const chips of sentence.samples) drawGrowth(chips, count);
      for (const { nodes } of act) nodes[count - 1]?.classList.remove("unsaid");
      if (act[0].nodes[count - 1]) follow(act[0].nodes[count - 1]);
      await new Promise((resolve) => setTimeout(resolve, pause));
      if (telling !== turn) return;
    }
  }
  hush();
  drawAll();
}

function present(isReplay = false) {
  showSentences();
  if (isReplay) spoken.clear();
  const fresh = scene.sentences.filter(({ id }) => !spoken.has(id));
  telling = 0;
  part("sentences").scrollTop = 0;
  say(scene.notes.join("; ") || "Click an object, or draw a box, for its mask and keypoints.");
  if (fresh.length && !calm.matches) tell(fresh);
  else drawAll();
}

function receive() {
  const value = props.value;
  if (!value) return;
  if (value.error) return say(value.error, true);
  if (value.picture !== scene?.picture) spoken = new Set();
  scene = value;
  part("image").src = scene.picture;
  part("drawing").setAttribute("viewBox", `0 0 ${scene.width} ${scene.height}`);
  part("frame").style.setProperty("--ratio", scene.width / scene.height);
  show("frame");
  present();
}

// Pointing at the photo

const ordered = ({ x1, y1, x2, y2 }) => [Math.min(x1, x2), Math.min(y1, y2), Math.max(x1, x2), Math.max(y1, y2)];
let pressed = null;

function placeOf(event) {
  const frame = part("frame").getBoundingClientRect();
  const inside = (value) => Math.min(Math.max(value, 0), 1);
  return {
    x: inside((event.clientX - frame.left) / frame.width) * scene.width,
    y: inside((event.clientY - frame.top) / frame.height) * scene.height,
  };
}

const draws = () => part("draw").getAttribute("aria-pressed") === "true";

function setDrawing(on) {
  part("draw").setAttribute("aria-pressed", on);
  part("frame").classList.toggle("drawing", on);
}

function press(event) {
  if (event.button) return;
  event.preventDefault();
  if (event.pointerType !== "touch" || draws()) part("frame").setPointerCapture(event.pointerId);
  pressed = { ...placeOf(event), clientX: event.clientX, clientY: event.clientY };
}

function move(event) {
  if (!pressed) return;
  const distance = Math.hypot(event.clientX - pressed.clientX, event.clientY - pressed.clientY);
  if (!drawing && distance < DRAG_PX) return;
  if (event.pointerType === "touch" && !draws()) return (pressed = null); // the page is being moved
  const { x, y } = placeOf(event);
  drawing = { x1: pressed.x, y1: pressed.y, x2: x, y2: y };
  hush();
  drawAll();
}

function release(event) {
  if (!pressed) return;
  say("Looking…");
  if (drawing) {
    const [x1, y1, x2, y2] = ordered(drawing);
    trigger("box", { x1, y1, x2, y2 });
  } else trigger("point", placeOf(event));
  pressed = drawing = null;
  setDrawing(false);
}

function stop() {
  pressed = drawing = null;
  if (scene && !telling) drawAll();
}

part("frame").addEventListener("pointerdown", press);
part("frame").addEventListener("pointermove", move);
part("frame").addEventListener("pointerup", release);
part("frame").addEventListener("pointercancel", stop);
part("draw").addEventListener("click", () => setDrawing(!draws()));
part("replay").addEventListener("click", () => present(true));
for (const name of ["choose", "again"]) part(name).addEventListener("click", () => part("file").click());
part("webcam").addEventListener("click", openCamera);
part("cancel").addEventListener("click", closeCamera);
part("snap").addEventListener("click", snap);
part("file").addEventListener("change", ({ target }) => {
  load(target.files[0]);
  target.value = "";
});
for (const name of ["dragover", "dragleave", "drop"])
  part("stage").addEventListener(name, (event) => {
    event.preventDefault();
    part("stage").classList.toggle("over", name === "dragover");
    if (name === "drop") load(event.dataTransfer.files[0]);
  });
document.addEventListener("paste", (event) => load(event.clipboardData?.files[0]));
part("sentences").addEventListener("mouseleave", () => scene && !telling && drawAll());
part("sentences").addEventListener("keydown", (event) => {
  const step = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 }[event.key];
  const chips = [...part("sentences").querySelectorAll("details[open] .chip")];
  const next = step && chips[chips.indexOf(document.activeElement) + step];
  if (!next || !chips.includes(document.activeElement)) return;
  event.preventDefault();
  next.focus();
});
watch("value", receive);
