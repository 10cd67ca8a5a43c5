"use strict";
(() => {
  const byId = (id) => document.getElementById(id);

  for (const table of document.querySelectorAll("table.sorted")) {
    const body = table.tBodies[0], heads = [...table.tHead.rows[0].cells];
    const value = (row, column) => {
      const cell = row.cells[column];
      return cell.dataset.v !== undefined ? Number(cell.dataset.v) : cell.textContent.trim();
    };
    heads.forEach((head, column) => head.firstChild.addEventListener("click", () => {
      const down = head.getAttribute("aria-sort") === "ascending" ? -1 : 1;
      heads.forEach((other) => other.setAttribute("aria-sort", "none"));
      head.setAttribute("aria-sort", down === 1 ? "ascending" : "descending");
      const missing = (one) => one === "" || Number.isNaN(one);
      const rows = [...body.rows].sort((a, b) => {
        const one = value(a, column), other = value(b, column);
        if (missing(one) || missing(other)) return missing(one) - missing(other);  // what is missing stands last, either way
        const numbers = typeof one === "number" && typeof other === "number";
        return down * (numbers ? one - other : String(one).localeCompare(String(other), undefined, { numeric: true }));
      });
      body.append(...rows);
    }));
  }

  for (const input of document.querySelectorAll("input[data-filters]")) {
    const rows = [...byId(input.dataset.filters).tBodies[0].rows], count = byId(`${input.dataset.filters}-count`);
    input.addEventListener("input", () => {
      const words = input.value.toLowerCase().split(/\s+/).filter(Boolean);
      let shown = 0;
      for (const row of rows) {
        const text = row.textContent.toLowerCase();
        row.hidden = !words.every((word) => text.includes(word));
        shown += !row.hidden;
      }
      count.textContent = words.length ? `${shown} of ${rows.length} rows` : `${rows.length} rows`;
    });
  }

  const viewer = byId("viewer");
  if (!viewer) return;
  const cases = JSON.parse(byId("volume-data").textContent), select = byId("viewer-case"), start = byId("viewer-start");
  const status = byId("viewer-status"), stills = byId("stills"), canvas = byId("viewer-canvas"), view = byId("viewer-view");
  const sliders = { truth: byId("viewer-truth"), prediction: byId("viewer-prediction") };
  let shown = null;

  const bytes = (base64) => Uint8Array.from(atob(base64), (letter) => letter.charCodeAt(0));
  const still = () => [...stills.children].forEach((one) => { one.hidden = one.dataset.case !== select.value; });

  async function library() {
    const packed = new Blob([bytes(byId("niivue").textContent.trim())]).stream().pipeThrough(new DecompressionStream("gzip"));
    const script = document.createElement("script");
    script.textContent = await new Response(packed).text();
    document.head.append(script);
    return window.niivue;
  }

  async function show() {
    const one = cases[Number(select.value)], { nv, NVImage } = shown;
    status.textContent = "Opening…";
    for (const volume of [...nv.volumes]) nv.removeVolume(volume);
    const given = { image: "gray", truth: "truth", prediction: "prediction" };
    for (const [kind, colormap] of Object.entries(given)) {
      if (!one[kind]) continue;
      const opacity = kind === "image" ? 1 : Number(sliders[kind].value);
      const limits = kind === "image" ? {} : { cal_min: 0, cal_max: one.levels };
      const volume = await NVImage.loadFromBase64({ base64: one[kind], name: `${kind}.nii.gz`, colormap, opacity, ...limits });
      nv.addVolume(volume);
      shown.at[kind] = nv.volumes.length - 1;
    }
    nv.setInterpolation(true);
    plane();
    canvas.dataset.shown = select.value;
    status.textContent = `${one.case}: drag in a slice to move, drag the rendering to turn it, scroll to go through the slices.`;
  }

  function plane() {
    const { nv } = shown;
    nv.setSliceType({ multi: nv.sliceTypeMultiplanar, axial: nv.sliceTypeAxial, coronal: nv.sliceTypeCoronal,
      sagittal: nv.sliceTypeSagittal, render: nv.sliceTypeRender }[view.value]);
  }

  start.addEventListener("click", async () => {
    start.disabled = true;
    try {
      if (!document.createElement("canvas").getContext("webgl2")) throw new Error("this browser has no WebGL 2");
      const { Niivue, NVImage } = await library();
      viewer.querySelectorAll("[hidden]").forEach((one) => { one.hidden = false; });
      const nv = new Niivue({ backColor: [0, 0, 0, 1], show3Dcrosshair: true, loadingText: "", isColorbar: false, dragAndDropEnabled: false, logLevel: "error" });
      await nv.attachToCanvas(canvas);
      nv.addColormap("truth", { R: [0, 150, 10], G: [0, 235, 150], B: [0, 180, 80], A: [0, 255, 255], I: [0, 1, 255] });
      nv.addColormap("prediction", { R: [0, 255, 215], G: [0, 200, 60], B: [0, 120, 20], A: [0, 255, 255], I: [0, 1, 255] });
      nv.opts.multiplanarShowRender = 1;
      shown = { nv, NVImage, at: {} };
      await show();
      stills.classList.add("live");
      stills.hidden = true;
      start.hidden = true;
    } catch (error) {
      viewer.querySelector(".canvas").hidden = true;
      status.textContent = `No 3D here (${error.message}); the slices below show the same case.`;
    }
  });
  select.addEventListener("change", () => { still(); if (shown) show(); });
  view.addEventListener("change", () => plane());
  for (const [kind, slider] of Object.entries(sliders)) {
    if (slider) slider.addEventListener("input", () => {
      if (shown && shown.at[kind] !== undefined) shown.nv.setOpacity(shown.at[kind], Number(slider.value));
    });
  }
})();
