// From a photo to the model's canvas: what dataset/geometry.py does for a whole image, with Pillow's antialiased bilinear filter.

/** Pixels of an image file, upright and over white: ImageData. */
export async function readPixels(blob) {
  const bitmap = await createImageBitmap(blob);
  const canvas = new OffscreenCanvas(bitmap.width, bitmap.height);
  const context = canvas.getContext("2d", { willReadFrequently: true });
  context.fillStyle = "white";
  context.fillRect(0, 0, canvas.width, canvas.height);
  context.drawImage(bitmap, 0, 0);
  bitmap.close();
  return context.getImageData(0, 0, canvas.width, canvas.height);
}

/** The canvas as planes (3, side, side) in [0, 1], and how many canvas pixels an image pixel has in x and in y. */
export function letterbox(image, side, padValue, rounds) {
  const scale = Math.min(side / image.width, side / image.height);
  const width = Math.max(roundHalfEven(image.width * scale), 1);
  const height = Math.max(roundHalfEven(image.height * scale), 1);
  const round = rounds ? (value) => Math.floor(value + 0.5) : (value) => value;
  const level = rounds ? roundHalfEven(padValue * 255) / 255 : padValue;
  const planes = new Float32Array(3 * side * side).fill(level);
  const columns = filter(image.width, width), rows = filter(image.height, height);
  const narrow = new Float32Array(image.height * width);
  for (let color = 0; color < 3; color++) {
    for (let y = 0; y < image.height; y++) {
      for (let x = 0; x < width; x++) {
        const { first, weights } = columns[x];
        let sum = 0;
        for (let k = 0; k < weights.length; k++) {
          sum += weights[k] * image.data[4 * (y * image.width + first + k) + color];
        }
        narrow[y * width + x] = round(sum);
      }
    }
    for (let y = 0; y < height; y++) {
      const { first, weights } = rows[y];
      for (let x = 0; x < width; x++) {
        let sum = 0;
        for (let k = 0; k < weights.length; k++) sum += weights[k] * narrow[(first + k) * width + x];
        planes[(color * side + y) * side + x] = round(sum) / 255;
      }
    }
  }
  return { planes, scaleX: width / image.width, scaleY: height / image.height };
}

/** For each of `count` new pixels, the first old one of `size` that it is made of, and the weights of those from there. */
function filter(size, count) {
  const step = size / count, reach = Math.max(step, 1);
  return Array.from({ length: count }, (_, index) => {
    const center = (index + 0.5) * step;
    const first = Math.max(Math.floor(center - reach + 0.5), 0), end = Math.min(Math.floor(center + reach + 0.5), size);
    const weights = Array.from({ length: end - first }, (_, k) => Math.max(1 - Math.abs(first + k + 0.5 - center) / reach, 0));
    const total = weights.reduce((sum, weight) => sum + weight, 0);
    return { first, weights: weights.map((weight) => weight / total) };
  });
}

/** Rounding as numpy does it: halves to the even number. */
export function roundHalfEven(value) {
  const low = Math.floor(value), part = value - low;
  return part === 0.5 ? low + (low % 2) : Math.round(value);
}
