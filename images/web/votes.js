// Several sampled lists of objects as one: what infer/votes.py does, with its numbers.

const MIN_IOU = 0.6, MIN_SCORE = 0.02;

/** The objects of `lists`, each of {box: [x1, y1, x2, y2], classId, score}, highest score first. */
export function mergeVotes(lists) {
  const all = lists.flatMap((list, voter) => list.map((object) => ({ ...object, voter })));
  const sure = all.filter((object) => object.score >= MIN_SCORE).sort((a, b) => b.score - a.score);
  const classes = [...new Set(sure.map((object) => object.classId))];
  const merged = classes.flatMap((classId) => mergeClass(sure.filter((object) => object.classId === classId), lists.length));
  return merged.sort((a, b) => b.score - a.score);
}

function mergeClass(objects, votes) {
  const linked = objects.map((a) => objects.map((b) => a === b || iou(a.box, b.box) >= MIN_IOU));
  const support = linked.map((row) => sumOfBest(objects.filter((_, k) => row[k])));
  const order = Array.from(objects.keys()).sort((a, b) => support[b] - support[a] || a - b);
  const left = new Set(order), merged = [];
  for (const first of order) {
    if (!left.has(first)) continue;
    const members = [...left].filter((k) => linked[first][k]).sort((a, b) => a - b);
    members.forEach((k) => left.delete(k));
    const best = ofEachVoter(members.map((k) => objects[k]));
    const score = best.reduce((sum, object) => sum + object.score, 0);
    const box = [0, 1, 2, 3].map((side) => best.reduce((sum, object) => sum + object.score * object.box[side], 0) / score);
    merged.push({ box, classId: objects[first].classId, score: score / votes });
  }
  return merged;
}

/** The likeliest object of each voter; `objects` come by falling score. */
function ofEachVoter(objects) {
  return objects.filter((object, k) => objects.findIndex((other) => other.voter === object.voter) === k);
}

function sumOfBest(objects) {
  return ofEachVoter(objects).reduce((sum, object) => sum + object.score, 0);
}

function iou(a, b) {
  const area = ([x1, y1, x2, y2]) => Math.max(x2 - x1, 0) * Math.max(y2 - y1, 0);
  const shared = area([Math.max(a[0], b[0]), Math.max(a[1], b[1]), Math.min(a[2], b[2]), Math.min(a[3], b[3])]);
  const union = area(a) + area(b) - shared;
  return union > 0 ? shared / union : 0;
}
