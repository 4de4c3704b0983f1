"use strict";
// Draws the page's figure, in the page's own colours, and again when these or the width change.
{
  const text = document.getElementById("figure").textContent;
  const place = document.getElementById("picture");
  const dark = matchMedia("(prefers-color-scheme: dark)");
  const phone = matchMedia("(max-width: 640px)");
  const roles = ["ink", "muted", "grid", "paper", "others"];

  const draw = () => {
    const style = getComputedStyle(document.documentElement);
    const colour = (key, value) =>
      key.endsWith("color") && roles.includes(value)
        ? style.getPropertyValue(`--${value}`).trim()
        : value;
    const { traces, layout, narrow } = JSON.parse(text, colour);
    layout.dragmode = matchMedia("(pointer: coarse)").matches ? false : "zoom"; // a finger scrolls
    if (phone.matches) {
      Object.assign(traces[0], narrow);
      layout.margin.l = 48;
      layout.font.size = 12;
      Object.assign(layout.legend, {
        orientation: "h", xref: "container", x: 0, yref: "container", y: 0, yanchor: "bottom",
      });
    }
    Plotly.react(place, traces, layout, {
      responsive: true,
      displaylogo: false,
      modeBarButtons: [["toImage", "resetScale2d"]],
    });
  };

  if (window.Plotly) {
    draw();
    dark.addEventListener("change", draw);
    phone.addEventListener("change", draw);
  } else {
    place.textContent = "The drawing library did not load: load this page again.";
  }
}
