// The second part of the viewer: sentences, token by token, and how they are told.
const QUICK_MS = 12, SLOW_MS = 70, SENTENCE_MS = 2600; // between two tokens, and of a sentence if that allows it
const KINDS = {
  task: "task", y: "y", x: "x", class: "class", separator: "next polygon", invisible: "invisible", word: "word",
  other: "other", end: "end",
};

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
  part("sentences").classList.toggle("more", Boolean(scene.more));
}

function follow(node) {
  const panel = part("sentences"), place = node.getBoundingClientRect(), frame = panel.getBoundingClientRect();
  if (place.bottom > frame.bottom) panel.scrollTop += place.bottom - frame.bottom + 12;
}

const longest = ({ samples }) => Math.max(...samples.map((chips) => chips.length));
const lists = ({ samples }) => samples[0].some((chip) => chip.box);

const saidOf = ({ key }) => told.get(key) ?? 0;

// What is being told is shown to its end at once, also what comes of it while the model decodes.
function hush() {
  telling = 0;
  for (const node of part("sentences").querySelectorAll(".unsaid")) node.classList.remove("unsaid");
  told.clear();
  for (const { id, key } of scene.sentences) scene.more ? told.set(key, Infinity) : spoken.add(id);
}

// Sentences that are new are spoken as far as they are known, those of one task at once, one task after the other; when
// the model has come to an end, everything is shown.
async function tell(fresh) {
  const turn = (telling = Date.now() + Math.random());
  const later = new Set(fresh.map(({ object }) => object)); // objects that are not known before they are spoken of
  const known = fresh.some(lists) ? [] : scene.objects.filter((_, index) => !later.has(index));
  const begun = [];
  for (const sentence of fresh)
    sentence.nodes.slice(saidOf(sentence)).forEach((node) => node.classList.add("unsaid"));
  for (const task of new Set(fresh.map((sentence) => sentence.task))) {
    const act = fresh.filter((sentence) => sentence.task === task);
    const length = Math.max(...act.map(longest));
    const pause = Math.min(Math.max(SENTENCE_MS / length, QUICK_MS), SLOW_MS);
    begun.push(...act);
    for (let count = Math.min(...act.map(saidOf)) + 1; count <= length; count++) {
      clear();
      known.forEach(drawObject);
      for (const { key } of act) told.set(key, Math.max(count, told.get(key) ?? 0));
      for (const sentence of begun) for (const chips of sentence.samples) drawGrowth(chips, saidOf(sentence));
      for (const { nodes } of act) nodes[count - 1]?.classList.remove("unsaid");
      if (act[0].nodes[count - 1]) follow(act[0].nodes[count - 1]);
      await new Promise((resolve) => setTimeout(resolve, pause));
      if (telling !== turn) return;
    }
  }
  if (scene.more) return; // what comes next goes on from here
  hush();
  drawAll();
}
