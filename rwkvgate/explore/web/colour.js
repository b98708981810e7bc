// Colours of values: straight lines in the OKLab space, so that equal steps of a value look equal. No DOM.

const ENDS = {
  light: { low: [0.965, -0.005, 0.004], high: [0.38, -0.035, -0.105], less: [0.58, 0.085, 0.115], more: [0.4, 0.06, -0.15] },
  dark: { low: [0.255, -0.006, -0.014], high: [0.9, -0.075, 0.035], less: [0.78, 0.06, 0.12], more: [0.72, 0.04, -0.13] },
};

/** The colour of a share 0 to 1, or of -1 to 1 on a diverging scale, as [red, green, blue], 0 to 255; null for NaN. */
export function colour(share, { theme = "light", diverging = false } = {}) {
  if (Number.isNaN(share)) return null;
  const ends = ENDS[theme];
  const far = diverging ? (share < 0 ? ends.less : ends.more) : ends.high;
  const part = Math.min(1, Math.abs(diverging ? share : Math.max(0, share)));
  return rgb(ends.low.map((start, i) => start + part * (far[i] - start)));
}

export function css(parts) {
  return parts ? `rgb(${parts.join(",")})` : "transparent";
}

/** Black or white, whichever contrasts more with a colour by WCAG's relative luminance. */
export function ink(parts) {
  return luminance(parts) > 0.179 ? "#000" : "#fff";
}

export function luminance(parts) {
  const [red, green, blue] = parts.map((part) => {
    const share = part / 255;
    return share <= 0.04045 ? share / 12.92 : ((share + 0.055) / 1.055) ** 2.4;
  });
  return 0.2126 * red + 0.7152 * green + 0.0722 * blue;
}

function rgb([light, a, b]) {
  const long = (light + 0.3963377774 * a + 0.2158037573 * b) ** 3;
  const middle = (light - 0.1055613458 * a - 0.0638541728 * b) ** 3;
  const short = (light - 0.0894841775 * a - 1.291485548 * b) ** 3;
  return [
    4.0767416621 * long - 3.3077115913 * middle + 0.2309699292 * short,
    -1.2684380046 * long + 2.6097574011 * middle - 0.3413193965 * short,
    -0.0041960863 * long - 0.7034186147 * middle + 1.707614701 * short,
  ].map((part) => {
    const share = Math.min(1, Math.max(0, part));
    return Math.round(255 * (share <= 0.0031308 ? 12.92 * share : 1.055 * share ** (1 / 2.4) - 0.055));
  });
}
