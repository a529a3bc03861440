// The last part of the viewer: photos from files and the webcam, what comes back about them, and pointing at them.
const DRAG_PX = 6; // a shorter drag is a click

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

// What comes back

function present(isReplay = false) {
  if (isReplay && scene.more) return;
  if (isReplay) [spoken, told] = [new Set(), new Map()];
  showSentences();
  const fresh = scene.sentences.filter(({ id }) => !spoken.has(id));
  telling = 0;
  if (!told.size) part("sentences").scrollTop = 0;
  say(scene.more ? "Looking…" : scene.notes.join("; ") || "Click an object, or draw a box, for its mask and keypoints.");
  if (fresh.length && !calm.matches && !drawing) return tell(fresh);
  hush();
  drawAll();
}

function receive() {
  const value = props.value;
  if (!value) return;
  if (value.error) {
    if (scene?.more) {
      scene.more = false; // what is there is all that comes
      present();
    }
    return say(value.error, true);
  }
  const { picture } = value, rest = JSON.parse(value.rest);
  if (picture !== scene?.picture) [spoken, told] = [new Set(), new Map()];
  else if (rest.more && calm.matches) return; // all at once, when all is there
  scene = { picture, ...rest };
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
