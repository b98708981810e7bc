"use strict";
// The page without a kernel: a layer slider and a choice of measure recolour what the page already shows.
(function () {
  const data = JSON.parse(document.getElementById("data").textContent);
  const find = (selector, within) => Array.from((within || document).querySelectorAll(selector));
  const one = (id) => document.getElementById(id);
  const slider = one("layer"), choice = one("measure"), text = one("text").querySelector(".tokens");
  const spans = text ? find("span", text) : [], dots = find("#surprisal circle");
  let at = -1;

  function step(value, low, high) {
    if (value === null) return "gn";
    const share = (value - low) / (high > low ? high - low : 1);
    return "g" + Math.max(0, Math.min(data.steps - 1, Math.floor(share * data.steps)));
  }

  function measure() { return data.measures[choice.selectedIndex]; }

  function number(value) { return value === null ? "no value" : (value / data.unit).toFixed(3); }

  function words(i) {
    const layer = Number(slider.value) - 1;
    return "layer " + data.labels[layer] + ", " + data.hover[i] + ", " + measure().label + " "
      + number(measure().values[layer][i]) + ", surprisal " + number(data.surprisal[i]) + " nats";
  }

  function read(i) {
    if (at >= 0 && spans[at]) spans[at].classList.remove("at");
    at = i;
    if (i < 0 || !spans[i]) return;
    spans[i].classList.add("at");
    one("readout").textContent = words(i);
  }

  function draw() {
    const layer = Number(slider.value) - 1, m = measure(), values = m.values[layer];
    one("layer-name").textContent = "layer " + data.labels[layer];
    spans.forEach((span, i) => {
      span.className = step(values[i], m.low, m.high);
      span.title = data.hover[i] + ", " + number(values[i]);
    });
    const legend = find("#text .legend span");
    if (legend.length) {
      legend[0].textContent = "layer " + data.labels[layer] + ", " + m.label;
      legend[1].textContent = (m.low / data.unit).toPrecision(3);
      legend[3].textContent = (m.high / data.unit).toPrecision(3);
    }
    dots.forEach((dot) => {
      const value = values[Number(dot.dataset.token)];
      dot.setAttribute("visibility", value === null ? "hidden" : "visible");
      if (value !== null) dot.setAttribute("cy", String(data.ground - data.height * value / data.unit));
      dot.querySelector("title").textContent = words(Number(dot.dataset.token));
    });
    one("correlation").textContent = m.correlations[layer];
    one("dots-name").textContent = m.label;
    find("[data-layer]").forEach((part) => { part.hidden = Number(part.dataset.layer) !== layer; });
    find("g[data-row]").forEach((row) => row.classList.toggle("chosen", Number(row.dataset.row) === layer));
    read(at);
  }

  slider.addEventListener("input", draw);
  choice.addEventListener("change", draw);
  find("g[data-row]").forEach((row) => row.addEventListener("click", () => {
    slider.value = String(Number(row.dataset.row) + 1);
    draw();
  }));
  if (text) {
    text.tabIndex = 0;
    spans.forEach((span, i) => {
      span.addEventListener("mouseenter", () => read(i));
      span.addEventListener("click", () => read(i));
    });
    text.addEventListener("keydown", (event) => {
      const forward = text.dir === "rtl" ? "ArrowLeft" : "ArrowRight";
      const back = text.dir === "rtl" ? "ArrowRight" : "ArrowLeft";
      const last = spans.length - 1;
      const to = { [forward]: Math.min(at + 1, last), [back]: Math.max(at - 1, 0), Home: 0, End: last }[event.key];
      if (to === undefined) return;
      event.preventDefault();
      read(to);
      spans[to].scrollIntoView({ block: "nearest" });
    });
  }
  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.altKey || event.metaKey || !["[", "]"].includes(event.key)) return;
    slider.value = String(Number(slider.value) + (event.key === "]" ? 1 : -1));
    draw();
  });
  one("controls").hidden = false;
  draw();
})();
