/** The score on the page: a canvas that is repainted while it is seen. */

import { useEffect, useRef } from "preact/hooks";
import { drawScore, type ScoreColours, type ScoreSource } from "./score";

const STILL_INTERVAL_MS = 250;

export function ScoreView({ source, label }: { source: ScoreSource; label: string }) {
  const canvas = useRef<HTMLCanvasElement>(null);

  useEffect(() => {
    const element = canvas.current;
    const context = element?.getContext("2d");
    if (!element || !context) return;
    const calm = matchMedia("(prefers-reduced-motion: reduce)");
    let colours = coloursOf(element);
    let frame = 0;
    let paintedAt = 0;
    const paint = (now: number) => {
      frame = requestAnimationFrame(paint);
      const interval = source.ticks ? STILL_INTERVAL_MS : Number.POSITIVE_INFINITY;
      const resized = fit(element, context);
      if (calm.matches && !resized && paintedAt > 0 && now - paintedAt < interval) return;
      paintedAt = now;
      drawScore(
        context,
        element.clientWidth,
        element.clientHeight,
        source,
        colours,
        calm.matches && source.ticks,
      );
    };
    const recolour = () => {
      colours = coloursOf(element);
      paintedAt = 0;
    };
    const themes = new MutationObserver(recolour);
    themes.observe(document.documentElement, { attributeFilter: ["data-theme"] });
    const scheme = matchMedia("(prefers-color-scheme: dark)");
    scheme.addEventListener("change", recolour);
    frame = requestAnimationFrame(paint);
    return () => {
      cancelAnimationFrame(frame);
      themes.disconnect();
      scheme.removeEventListener("change", recolour);
    };
  }, [source]);

  return <canvas class="score" ref={canvas} role="img" aria-label={label} />;
}

/** As many pixels as the screen has under the canvas; returns whether that was news. */
function fit(element: HTMLCanvasElement, context: CanvasRenderingContext2D): boolean {
  const scale = Math.min(3, window.devicePixelRatio || 1);
  const width = Math.round(element.clientWidth * scale);
  const height = Math.round(element.clientHeight * scale);
  const resized = element.width !== width || element.height !== height;
  if (resized) {
    element.width = width;
    element.height = height;
    context.setTransform(scale, 0, 0, scale, 0, 0);
  }
  return resized;
}

function coloursOf(element: Element): ScoreColours {
  const style = getComputedStyle(element);
  const colour = (name: string) => style.getPropertyValue(name).trim();
  return {
    ink: colour("--ink"),
    faint: colour("--faint"),
    user: colour("--user"),
    model: colour("--model"),
    both: colour("--both"),
    overprint: colour("--overprint") === "screen" ? "screen" : "multiply",
  };
}
