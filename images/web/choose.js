// Choose the next token from logits: what infer/exported/decoding.py does, for the grammar of detection.

import { roundHalfEven } from "./image.js";

/** A random number in [0, 1) for each call, the same ones for the same seed (mulberry32). */
export function random(seed) {
  return () => {
    seed = (seed + 0x6d2b79f5) | 0;
    let mixed = Math.imul(seed ^ (seed >>> 15), 1 | seed);
    mixed = (mixed + Math.imul(mixed ^ (mixed >>> 7), 61 | mixed)) ^ mixed;
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 2 ** 32;
  };
}

/** Shares of the softmax over some numbers. */
export function softmax(values) {
  const highest = values.reduce((most, value) => Math.max(most, value), -Infinity);
  const shares = values.map((value) => Math.exp(value - highest));
  const total = shares.reduce((sum, share) => sum + share, 0);
  return shares.map((share) => share / total);
}

/** The likeliest of `ids`; the end only where its share is at least `endThreshold`; a coordinate is the mean of `window` bins
 * on each side of the likeliest one. */
export function likeliest(logits, ids, vocabulary, endThreshold, window) {
  let values = Float64Array.from(ids, (id) => logits[id]);
  const end = ids.indexOf(vocabulary.end);
  if (endThreshold && end >= 0 && softmax(values)[end] < endThreshold) values[end] = -Infinity;
  const chosen = ids[values.indexOf(values.reduce((most, value) => Math.max(most, value), -Infinity))];
  const first = vocabulary.coord_shift, last = first + vocabulary.coord_bins - 1;
  if (!window || chosen < first || chosen > last) return chosen;
  const from = Math.max(chosen - window, first), to = Math.min(chosen + window, last);
  const shares = softmax(Float64Array.from({ length: to - from + 1 }, (_, k) => logits[from + k]));
  return first + roundHalfEven(shares.reduce((sum, share, k) => sum + share * (from + k - first), 0));
}

/** One of `ids`, drawn from the nucleus of probability `topP` by `draw`, which is from 0 to 1. */
export function sample(logits, ids, temperature, topP, draw) {
  const shares = softmax(Float64Array.from(ids, (id) => logits[id] / temperature));
  const order = Array.from(ids.keys()).sort((a, b) => shares[b] - shares[a]);
  let inside = 0, sum = 0;
  while (inside < order.length && (inside === 0 || sum + shares[order[inside]] <= topP)) sum += shares[order[inside++]];
  let left = draw * sum;
  for (const place of order.slice(0, inside)) {
    left -= shares[place];
    if (left < 0) return ids[place];
  }
  return ids[order[0]];
}

/** The `count` likeliest of `ids`, the first one first, with their shares of the softmax over all logits. */
export function ranked(logits, ids, count) {
  const shares = softmax(Float64Array.from(logits));
  return Array.from(ids, (id) => ({ id, share: shares[id] })).sort((a, b) => b.share - a.share).slice(0, count);
}
