// What a browser that never saw this store begins with. MLflow's UI asks localStorage for what a user chose; where nothing was
// chosen yet, it gets what stands here, and keeps whatever the user makes of it.
(choices, table) => {
  for (const [key, value] of Object.entries(choices))
    if (localStorage.getItem(key) === null) localStorage.setItem(key, value);

  // Charts of a run, in MLflow's own form: left alone it sorts their names, so that gradients come before the loss and the
  // cross-entropy before the score, and draws a bar of each figure that was measured once.
  const SECTIONS = ["train", "val", "test"];
  const LAST = /^(ce|cross_entropy|grad_norm|lr_.*)$/;
  const part = (key) => key.slice(0, Math.max(key.lastIndexOf("/"), 0)) || "Model metrics";
  const name = (key) => key.slice(key.lastIndexOf("/") + 1);
  const rank = (key) => (/^loss/.test(name(key)) ? 0 : LAST.test(name(key)) ? 2 : 1);
  const place = (section) => (SECTIONS.indexOf(section) + SECTIONS.length + 1) % (SECTIONS.length + 1);
  const chart = ({ key, step }, ended) => ({
    uuid: key, metricSectionId: part(key), metricKey: key, displayName: name(key), isGenerated: true,
    type: step >= 1 ? "LINE" : "BAR",
    deleted: ended && step < 1, // while a run goes on, it may be the first step of a course
    runsCountToCompare: 10, lineSmoothness: 0, xAxisScaleType: "linear", scaleType: "linear", range: {}, xAxisKey: "step",
    selectedXAxisMetricKey: "", yAxisKey: "metric", yAxisExpressions: [], ignoreOutliers: false, useGlobalXaxisKey: true,
    useGlobalLineSmoothing: true,
  });
  const charts = (id) => {
    const asked = new XMLHttpRequest();
    asked.open("GET", `ajax-api/2.0/mlflow/runs/get?run_id=${id}`, false); // the page waits for what it is to begin with
    asked.send();
    if (asked.status !== 200) return null;
    const { data, info } = JSON.parse(asked.responseText).run;
    const measured = (data.metrics ?? []).filter(({ key }) => !key.startsWith("system/"));
    measured.sort((a, b) => rank(a.key) - rank(b.key) || (a.key < b.key ? -1 : 1));
    const compareRunCharts = measured.map((one) => chart(one, info.status !== "RUNNING"));
    const shown = compareRunCharts.filter((one) => !one.deleted).map((one) => one.metricSectionId);
    const sections = [...new Set(shown)].sort((a, b) => place(a) - place(b) || (a < b ? -1 : 1));
    return JSON.stringify({
      isAccordionReordered: true, autoRefreshEnabled: true, compareRunCharts,
      compareRunSections: sections.map((one) => ({ uuid: one, name: one, display: true, isReordered: true, isGenerated: true })),
      globalLineChartConfig: { xAxisKey: "step", lineSmoothness: 0, selectedXAxisMetricKey: "" },
    });
  };

  const kept = Storage.prototype.getItem;
  Storage.prototype.getItem = function (key) {
    const value = kept.call(this, key);
    if (value !== null) return value;
    if (/^MLflowLocalStorage-[.0-9]+-ExperimentPage-.*-ReactComponentState$/.test(key)) return table;
    const run = /^MLflowLocalStorage-[.0-9]+-RunPage-(\w+)-model-chartUIState$/.exec(key);
    return run ? charts(run[1]) : null;
  };
  if (!location.hash) location.replace("#/experiments");
}
