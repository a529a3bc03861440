// The page: a photo is chosen, its objects are drawn and listed. `?votes=1` decodes one greedy list.

import { loadDetector } from "./detector.js";
import { readPixels } from "./image.js";

const MOST_PIXELS = 50e6;
const byId = (id) => document.getElementById(id);
const [file, demo, threshold, status, picture, found] = ["file", "demo", "threshold", "status", "picture", "found"].map(byId);
const votes = Number(new URLSearchParams(location.search).get("votes")) || undefined;
let shown = null; // the photo and its objects

function say(text, isError = false) {
  status.textContent = text;
  status.classList.toggle("error", isError);
}

async function detect(detector, blob) {
  file.disabled = demo.disabled = true;
  try {
    const image = await readPixels(blob);
    if (image.width * image.height > MOST_PIXELS) throw new Error("the photo has more than 50 megapixels; choose a smaller one");
    shown = { image, objects: [] };
    draw();
    say("detecting …");
    await new Promise((resolve) => setTimeout(resolve));
    const result = await detector.detect(image, { votes, report: (tokens) => say(`detecting … ${tokens} tokens`) });
    shown = { image, ...result };
    draw();
    window.result = { width: image.width, height: image.height, ...result };
    const speed = `${result.tokens} tokens, ${result.tokensPerSecond.toFixed(0)} tokens/s`;
    say(`encoded in ${result.encodeMs.toFixed(0)} ms, then ${speed}`);
  } catch (error) {
    say(`this photo cannot be used: ${error.message}`, true);
  } finally {
    file.disabled = demo.disabled = false;
  }
}

/** The photo with the boxes of all objects whose score is high enough, and a table of them. */
function draw() {
  const least = Number(threshold.value);
  byId("least").textContent = least.toFixed(2);
  if (!shown) return;
  const { image, objects } = shown, context = picture.getContext("2d");
  Object.assign(picture, { width: image.width, height: image.height });
  context.putImageData(image, 0, 0);
  const chosen = objects.filter(({ score }) => score >= least);
  const unit = Math.max(image.width, image.height) / 600;
  context.lineWidth = 2.5 * unit;
  context.font = `${Math.round(14 * unit)}px system-ui, sans-serif`;
  for (const { name, score, box: [x1, y1, x2, y2] } of [...chosen].reverse()) {
    const label = `${name} ${score.toFixed(2)}`, height = 18 * unit, top = Math.max(y1 - height, 0);
    context.strokeStyle = context.fillStyle = color(name);
    context.strokeRect(x1, y1, x2 - x1, y2 - y1);
    context.fillRect(x1, top, context.measureText(label).width + 8 * unit, height);
    context.fillStyle = "white";
    context.fillText(label, x1 + 4 * unit, top + 13.5 * unit);
  }
  found.hidden = !objects.length;
  found.tBodies[0].replaceChildren(...chosen.map(({ name, score, box: [x1, y1, x2, y2] }) => {
    const row = document.createElement("tr");
    const place = [x1, y1, x2 - x1, y2 - y1].map((value) => value.toFixed(0)).join(", ");
    for (const text of [name, score.toFixed(2), place]) row.insertCell().textContent = text;
    return row;
  }));
}

/** The same color for the same name. */
function color(name) {
  const hash = [...name].reduce((sum, letter) => (31 * sum + letter.codePointAt(0)) % 360, 7);
  return `hsl(${hash} 70% 38%)`;
}

try {
  const detector = await loadDetector("model");
  threshold.value = detector.description.inference.score_threshold;
  threshold.addEventListener("input", draw);
  file.addEventListener("change", () => file.files[0] && detect(detector, file.files[0]));
  demo.addEventListener("click", async () => detect(detector, await (await fetch("demo.jpg")).blob()));
  demo.disabled = false;
  draw();
  say("ready: choose a photo");
} catch (error) {
  say(`the model cannot be loaded: ${error.message}`, true);
}
