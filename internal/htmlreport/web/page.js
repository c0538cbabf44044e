"use strict";
// What one points at: a line through all charts of the host, the values in a box.
(() => {
  const scaled = (v, units, step) => {
    let i = 0;
    while (v >= step && i < units.length - 1) { v /= step; i++; }
    return (i === 0 || v >= 100 ? v.toFixed(0) : v.toFixed(1)) + " " + units[i];
  };
  const bytes = v => scaled(v, ["B", "KiB", "MiB", "GiB", "TiB", "PiB"], 1024);
  const write = {
    ratio: v => (100 * v).toFixed(v < 0.1 ? 1 : 0) + "%",
    bytes,
    rate: v => bytes(v) + "/s",
    count: v => v % 1 && v < 100 ? v.toFixed(2) : Math.round(v).toLocaleString("en"),
  };
  const clock = ms => new Date(ms).toISOString().replace("T", " ").slice(0, 19) + " UTC";
  const make = (tag, name, text) => {
    const e = document.createElement(tag);
    if (name) e.className = name;
    if (text !== undefined) e.textContent = text;
    return e;
  };

  // nearest is the bucket with a value that is nearest to a time.
  const nearest = (line, ms) => {
    const at = Math.floor(ms / line.width) - line.first;
    for (let d = 0; d < 12; d++) {
      for (const i of [at - d, at + d]) {
        if (line.mean[i] !== undefined && line.mean[i] !== null) return i;
      }
    }
    return -1;
  };

  const fill = (tip, chart, ms) => {
    tip.replaceChildren(make("b", "", clock(ms)));
    for (const line of chart.lines) {
      const i = nearest(line, ms);
      const row = make("div", line.class);
      row.append(make("i"));
      let text = line.label + ": ";
      if (i < 0) text += "no record";
      else {
        const mean = write[chart.unit](line.mean[i]), max = write[chart.unit](line.max[i]);
        text += mean + (max === mean ? "" : ", up to " + max);
      }
      row.append(make("span", "", text));
      tip.append(row);
    }
  };

  for (const section of document.querySelectorAll("section.machine")) {
    const data = JSON.parse(section.querySelector("script.data").textContent);
    const plots = [...section.querySelectorAll(".plot")].filter(p => data[p.dataset.chart]);
    const cross = p => p.querySelector(".cross"), tip = p => p.querySelector(".tip");
    const hide = () => plots.forEach(p => { cross(p).hidden = tip(p).hidden = true; });
    const show = (plot, share) => {
      share = Math.min(1, Math.max(0, share));
      for (const p of plots) {
        cross(p).hidden = false;
        cross(p).style.left = 100 * share + "%";
        tip(p).hidden = p !== plot;
      }
      plot.share = share;
      const chart = data[plot.dataset.chart], box = tip(plot);
      fill(box, chart, chart.begin + share * (chart.end - chart.begin));
      const right = share > 0.5;
      box.style.left = right ? "auto" : 100 * share + 2 + "%";
      box.style.right = right ? 100 * (1 - share) + 2 + "%" : "auto";
    };
    for (const plot of plots) {
      const point = e => {
        const r = plot.getBoundingClientRect();
        show(plot, (e.clientX - r.left) / r.width);
      };
      plot.addEventListener("pointermove", point);
      plot.addEventListener("pointerdown", point);
      plot.addEventListener("pointerleave", hide);
      plot.addEventListener("blur", hide);
      plot.addEventListener("keydown", e => {
        const step = { ArrowLeft: -0.005, ArrowRight: 0.005, Home: -2, End: 2 }[e.key];
        if (e.key === "Escape") hide();
        if (!step) return;
        e.preventDefault();
        show(plot, (plot.share === undefined ? 0.5 : plot.share) + step * (e.shiftKey ? 10 : 1));
      });
    }
  }
})();
