// Detection with an exported model (docs/export.md): the image is encoded once, then tokens are decoded one by one.

import * as ort from "./ort.wasm.min.mjs";
import { letterbox } from "./image.js";
import { likeliest, random, ranked, sample } from "./choose.js";
import { mergeVotes } from "./votes.js";

const ALTERNATIVES = 8; // classes of a box that votes count for, as in infer/detection.py
const VOTES_TOP_P = 0.7; // nucleus of votes where the model names none, as there
const TOKENS_OF_OBJECT = 5; // y1 x1 y2 x2 class
const PAINT_MS = 100; // between two chances for the browser to paint

/** The exported model in a folder. */
export async function loadDetector(folder) {
  ort.env.wasm.wasmPaths = new URL("./", import.meta.url).href;
  ort.env.logLevel = "error";
  const answer = await fetch(`${folder}/model.json`);
  if (!answer.ok) throw new Error(`${folder}/model.json is not there`);
  const description = await answer.json();
  const options = { executionProviders: ["wasm"], extra: { session: { disable_quant_qdq: "1" } } }; // int8 to fp32 once
  const encoder = await ort.InferenceSession.create(`${folder}/encoder.onnx`, options);
  const step = await ort.InferenceSession.create(`${folder}/step.onnx`, options);
  return new Detector(description, encoder, step);
}

class Detector {
  constructor(description, encoder, step) {
    Object.assign(this, { description, encoder, step });
    const { end, coord_shift: first, coord_bins: bins, class_shift: shift } = description.vocabulary;
    const coords = Array.from({ length: bins }, (_, bin) => first + bin);
    const isEndless = description.cfg.model.full_detection;
    this.classes = Object.keys(description.class_names).map((id) => Number(id) + shift);
    this.allowed = [isEndless ? coords : [end, ...coords], coords, coords, coords, this.classes];
  }

  /** Objects {name, score, box: [x1, y1, x2, y2]} of ImageData, highest score first, in `votes` sampled lists or a greedy one,
   * and how long it took. `report(tokens)` is called now and then. */
  async detect(image, { votes = this.description.inference.detection_votes, seed = 0, report = () => {} } = {}) {
    const { model } = this.description.cfg, began = performance.now();
    const { planes, scaleX, scaleY } = letterbox(image, model.image_size, model.pad_value, model.pixels !== "float32");
    const shape = [1, 3, model.image_size, model.image_size];
    const memory = await this.encoder.run({ images: new ort.Tensor("float32", planes, shape) });
    const encoded = performance.now();
    const { lists, tokens } = await this.decode(memory, votes, random(seed), report);
    const place = ({ box: [y1, x1, y2, x2], ...object }) => ({
      ...object,
      box: [x1 / scaleX, y1 / scaleY, x2 / scaleX, y2 / scaleY],
    });
    const placed = lists.map((list) => list.map(place));
    const merged = votes > 1 ? mergeVotes(placed) : placed[0].sort((a, b) => b.score - a.score);
    const objects = merged.map((object) => this.named(object, image, votes)).filter(({ box }) => box[2] > box[0] && box[3] > box[1]);
    const decodeMs = performance.now() - encoded;
    return { objects, tokens, encodeMs: encoded - began, decodeMs, tokensPerSecond: (1000 * tokens) / decodeMs };
  }

  /** For each of `votes` sequences its objects {box: [y1, x1, y2, x2] in canvas pixels, classId, score}, and all tokens. */
  async decode(memory, votes, draw, report) {
    const { vocabulary, cfg } = this.description, { prompt, most_tokens: most } = vocabulary.tasks.detection;
    const longest = Math.min(most, cfg.model.max_tokens);
    const lists = Array.from({ length: votes }, () => []), boxes = Array.from({ length: votes }, () => []);
    const going = new Set(lists.keys());
    const feeds = { ...memory, ...this.emptyCache(memory, votes) };
    let following = new Array(votes).fill(prompt), tokens = 0, painted = performance.now();
    for (let position = 0; position < longest && going.size; position++) {
      const input = new ort.Tensor("int64", BigInt64Array.from(following, BigInt), [1, votes]);
      const { logits, ...cache } = await this.step.run({ ...feeds, tokens: input });
      for (const [name, tensor] of Object.entries(cache)) feeds[name.replace("new_", "past_")] = tensor;
      const size = logits.dims[2];
      following = following.map(() => vocabulary.end);
      for (const number of [...going]) {
        const row = logits.data.subarray(number * size, (number + 1) * size);
        following[number] = this.next(row, position % TOKENS_OF_OBJECT, votes, draw, boxes[number], lists[number]);
        tokens++;
        if (following[number] === vocabulary.end) going.delete(number);
      }
      if (performance.now() - painted > PAINT_MS) {
        report(tokens);
        await new Promise((resolve) => setTimeout(resolve));
        painted = performance.now();
      }
    }
    return { lists, tokens };
  }

  emptyCache(memory, votes) {
    return Object.fromEntries(Object.entries(memory).map(([name, tensor]) => {
      const [, heads, , width] = tensor.dims;
      return [name.replace("memory_", "past_"), new ort.Tensor("float32", new Float32Array(0), [1, votes, heads, 0, width])];
    }));
  }

  /** The next token of a sequence; a class completes the coordinates in `box` to an object of `list`. */
  next(logits, place, votes, draw, box, list) {
    const { inference, vocabulary, cfg } = this.description, ids = this.allowed[place];
    if (place < 4) {
      const token = votes > 1
        ? sample(logits, ids, inference.temperature, inference.detection_top_p || VOTES_TOP_P, draw())
        : likeliest(logits, ids, vocabulary, inference.end_threshold, inference.coord_window);
      box[place] = ((token - vocabulary.coord_shift) / (vocabulary.coord_bins - 1)) * cfg.model.image_size;
      return token;
    }
    const best = ranked(logits, ids, votes > 1 ? ALTERNATIVES : 1);
    for (const { id, share } of best) list.push({ box: [...box], classId: id - vocabulary.class_shift, score: share });
    return best[0].id;
  }

  /** An object with its name, inside the image; its score is calibrated if that was fitted to what is done here. */
  named({ box, classId, score }, image, votes) {
    const { inference, class_names: names } = this.description;
    const sides = [image.width, image.height, image.width, image.height];
    const isFitted = votes === inference.detection_votes && inference.views === 1;
    const { calibration_slope: slope, calibration_offset: offset } = inference;
    const odds = slope * Math.log(score / (1 - score)) + offset;
    return {
      name: names[classId],
      score: isFitted ? 1 / (1 + Math.exp(-odds)) : score,
      box: box.map((value, side) => Math.min(Math.max(value, 0), sides[side])),
    };
  }
}
