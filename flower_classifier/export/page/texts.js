// What the page says, but for what stands in index.html. Another language needs both files.

const number = (value) => value.toLocaleString("en");
const again = "export it again";

export const TEXTS = {
  pointCamera: (classes) => `Point the camera at one of ${number(classes)} things it knows.`,
  choosePhoto: (classes) => `Choose a photo of one of ${number(classes)} things it knows.`,
  loadedOnce: "Getting ready. Where it can be kept, this happens once.",
  isKept: "Photos stay here. No network needed.",
  loaded: (done, total) => `${(done / 1e6).toFixed(1)} of ${(total / 1e6).toFixed(1)} MB`,
  looking: "Looking…",
  sure: (share) => `${share} sure`,
  noneOf: (classes) => `None of the ${number(classes)} classes`,
  mostLike: (names) => `Of those it knows, most like ${names.join(", ")}`,
  oneOf: (names) => `${names.slice(0, -1).join(", ")} or ${names.at(-1)}`,
  sureOfOne: (share) => `${share} sure that it is one of these`,
  framesPerSecond: (rate) => `${rate < 9.5 ? rate.toFixed(1) : Math.round(rate)} fps`,

  hold: "Hold",
  goOn: "Go on",
  toCamera: "Camera",
  nextPhoto: (at, count) => `Next photo (${number(at)} of ${number(count)})`,
  tryCamera: "Try the camera again",
  tryAgain: "Try again",

  noCamera: {
    NotAllowedError: "The camera is off for this page. Allow it in the browser’s settings, or choose a photo.",
    NotFoundError: "There is no camera here. Choose a photo, or drop one onto this page.",
    NotReadableError: "Another program is using the camera. Close it, or choose a photo.",
    NotSupportedError: "The camera needs a page with https. Choose a photo, or drop one onto this page.",
    other: "The camera does not start. Choose a photo, or drop one onto this page.",
  },
  noPicture: (file) => `${file || "This"} is not a picture that this browser can open.`,
  noHeic: (file) =>
    `${file || "This"} is HEIC, as iPhones write, and this browser cannot open it. Send it as a JPEG, or choose ` +
    "“Most Compatible” in the iPhone’s settings, under Camera, Formats.",
  cut: (file, share) =>
    `${file || "This"} is cut off: ${share ? `${percent(share).replaceAll(" ", "\u00a0")} of the picture is there` : "only its outlines are there"}. ` +
    "Send or download it again.",
  tooOld: "This browser is too old to run the classifier. One from 2023 or later does.",
  falseColours:
    "This browser puts noise into pictures, as a protection against being recognised, so each answer would be wrong. " +
    "Switch that protection off for this page, or use another browser.",
  brokenOff: "The network broke off while the classifier was loading.",
  notStarted: (reason) => `The classifier could not be started: ${reason || "a file of it is missing"}`,
  runsNowhere: (reasons) => `The classifier does not run in this browser (${reasons})`,
  wrongAnswer: "it answers a test picture wrongly",
  missing: (file) => `${file} is missing: ${again}`,
  damaged: (file) => `${file} is damaged, or from another export: ${again}`,
};

// Only certainty is 100 %, so nothing else is rounded to it, or to 0 %.
export function percent(share) {
  if (share > 0.995) return "> 99 %";
  return share < 0.005 ? "< 1 %" : `${Math.round(100 * share)} %`;
}
