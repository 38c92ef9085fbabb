"""The frame of the report's page: style and the little script that moves the playhead."""

from __future__ import annotations

from string import Template

PAGE = Template(
    """<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>$title</title>
<style>
:root { color-scheme: light dark; --user: #2a78c8; --system: #c8622a; --good: #2e8b57;
  --bad: #c0392b; --line: #8886; }
body { font: 15px/1.5 system-ui, sans-serif; max-width: 64rem; margin: 2rem auto;
  padding: 0 1rem; }
table { border-collapse: collapse; }
td, th { padding: .15rem .7rem; border-bottom: 1px solid var(--line); text-align: left; }
td:nth-child(n+2) { font-variant-numeric: tabular-nums; white-space: nowrap; }
tr.reached td:last-child { color: var(--good); } tr.missed td:last-child { color: var(--bad); }
.blocks { display: flex; flex-wrap: wrap; gap: 1rem 2rem; }
figure { margin: 1rem 0; padding: .5rem .8rem; border-left: 4px solid var(--line); }
figure.reached { border-color: var(--good); } figure.missed { border-color: var(--bad); }
figcaption { font-weight: 600; }
svg { width: 100%; height: auto; cursor: pointer; }
svg text { font: 10px system-ui, sans-serif; fill: currentColor; }
svg text.time { opacity: .5; } svg text.user, .wave.user { fill: var(--user); }
svg text.system, .wave.system { fill: var(--system); }
.axis { stroke: var(--line); } .trigger { stroke: #b0b; stroke-width: 3; }
.lookup { fill: #b0b5; } .rows { fill: #0a8a; } .pause { fill: #8882; }
.end { stroke: currentColor; stroke-dasharray: 3 3; opacity: .6; }
.interruption { stroke: var(--bad); stroke-dasharray: 6 2; }
.head { stroke: currentColor; stroke-width: 1.5; }
dl { display: grid; grid-template-columns: max-content 1fr; gap: 0 1rem; margin: .3rem 0;
  font-size: 13px; } dt { opacity: .6; } dd { margin: 0; overflow-wrap: anywhere; }
audio { width: 100%; height: 2rem; }
</style>
<h1>$title</h1>
<p>$facts</p>
$body
<script type="application/json" id="figures">$data</script>
<script>
for (const figure of document.querySelectorAll("figure")) {
  const audio = figure.querySelector("audio"), svg = figure.querySelector("svg");
  const head = svg.querySelector(".head"), seconds = Number(svg.dataset.seconds);
  const width = svg.viewBox.baseVal.width;
  const move = () => {
    const x = Math.min(1, audio.currentTime / seconds) * width;
    head.setAttribute("x1", x); head.setAttribute("x2", x);
    if (!audio.paused) requestAnimationFrame(move);
  };
  audio.addEventListener("play", move);
  audio.addEventListener("seeked", move);
  svg.addEventListener("click", (event) => {
    const box = svg.getBoundingClientRect();
    audio.currentTime = (event.clientX - box.left) / box.width * seconds;
    audio.play();
  });
}
</script>
</html>
"""
)
