/**
 * Draws the score: two voices as ribbons of ink on one time line, now at the right.
 *
 * You are the upper ribbon, the model the lower one; silence is a thread. Where both are loud the
 * two inks overprint. Under them run the lookups, as threads from question to answer. The drawing
 * is decoration for the eyes: the script says the same in words.
 */

import { type LaneLevels, LEVEL_MS, type Stretch } from "../audio/levels";
import type { Lookup } from "../conversation/lookups";
import { clockText, type Turn } from "../conversation/transcript";

export interface ScoreSource {
  nowMs(): number;
  readonly levels: { readonly user: LaneLevels; readonly model: LaneLevels };
  turns(): readonly Turn[];
  lookups(): readonly Lookup[];
  /** The number that the script gives to a lookup. */
  numberOf(index: number): number;
  together(): readonly Stretch[];
  /** Show clock times under the ribbons. */
  readonly ticks: boolean;
}

export interface ScoreColours {
  ink: string;
  faint: string;
  user: string;
  model: string;
  both: string;
  overprint: GlobalCompositeOperation;
}

const PX_PER_SECOND = { wide: 84, narrow: 62 };
const NARROW_PX = 600;
const TOP_PX = 28;
const CAPTION_PX = 24;
const THREAD_PX = 20;
const TICKS_PX = 20;
/** Share of the room for both ribbons that one may swing to either side: over a quarter, they meet. */
const SWING = 0.29;
const STEP_PX = 3;
const MARGIN_PX = 40;
const MIN_CAPTION_GAP_PX = 18;

interface Geometry {
  width: number;
  height: number;
  startMs: number;
  nowMs: number;
  pxPerMs: number;
  userY: number;
  modelY: number;
  swing: number;
  captionY: number;
  threadY: number;
}

/** Paint one picture. `paged` stands still and turns a page now and then: for reduced motion. */
export function drawScore(
  context: CanvasRenderingContext2D,
  width: number,
  height: number,
  source: ScoreSource,
  colours: ScoreColours,
  paged: boolean,
): void {
  const g = geometry(width, height, source, paged);
  context.clearRect(0, 0, width, height);
  drawTogether(context, g, source, colours);
  context.globalCompositeOperation = "source-over";
  drawRibbon(context, g, source.levels.model, g.modelY, colours.model);
  context.globalCompositeOperation = colours.overprint;
  drawRibbon(context, g, source.levels.user, g.userY, colours.user);
  context.globalCompositeOperation = "source-over";
  drawNib(context, g, source.levels.user, g.userY, colours.user);
  drawNib(context, g, source.levels.model, g.modelY, colours.model);
  drawLookups(context, g, source, colours);
  drawCaptions(context, g, source.turns(), colours);
  if (source.ticks) drawTicks(context, g, colours);
}

function geometry(width: number, height: number, source: ScoreSource, paged: boolean): Geometry {
  const pxPerMs = (width < NARROW_PX ? PX_PER_SECOND.narrow : PX_PER_SECOND.wide) / 1000;
  const spanMs = (width - Math.min(MARGIN_PX, width * 0.06)) / pxPerMs;
  const nowMs = source.nowMs();
  const bottom = height - CAPTION_PX - THREAD_PX - (source.ticks ? TICKS_PX : 0);
  const swing = SWING * (bottom - TOP_PX);
  return {
    width,
    height,
    startMs: paged ? Math.floor(nowMs / spanMs) * spanMs : nowMs - spanMs,
    nowMs,
    pxPerMs,
    userY: TOP_PX + swing,
    modelY: bottom - swing,
    swing,
    captionY: bottom + 17,
    threadY: bottom + CAPTION_PX + 9,
  };
}

const xOf = (g: Geometry, ms: number): number => (ms - g.startMs) * g.pxPerMs;

/** Loudness as the ear takes it, 0 to 1. */
const swell = (peak: number): number => Math.min(1, 1.35 * peak ** 0.6);

function levelAround(levels: LaneLevels, ms: number): number {
  const at = Math.floor(ms / LEVEL_MS);
  let sum = 0;
  let weights = 0;
  for (let offset = -3; offset <= 3; offset++) {
    const weight = 4 - Math.abs(offset);
    sum += weight * swell(levels.at(at + offset));
    weights += weight;
  }
  return sum / weights;
}

function drawRibbon(
  context: CanvasRenderingContext2D,
  g: Geometry,
  levels: LaneLevels,
  y: number,
  colour: string,
): void {
  const endX = Math.min(g.width, xOf(g, g.nowMs));
  const points: number[] = [];
  // Sampled at fixed times, not fixed pixels, so that the ribbon does not shimmer as it moves.
  const stepMs = STEP_PX / g.pxPerMs;
  const firstMs = Math.floor(g.startMs / stepMs) * stepMs;
  for (let ms = firstMs; xOf(g, ms) < endX; ms += stepMs) {
    points.push(xOf(g, ms), 0.75 + g.swing * levelAround(levels, ms));
  }
  points.push(endX, 0.75 + g.swing * levelAround(levels, g.nowMs - LEVEL_MS));
  context.beginPath();
  context.moveTo(points[0]!, y - points[1]!);
  smoothEdge(context, points, y, -1);
  context.lineTo(points[points.length - 2]!, y + points[points.length - 1]!);
  smoothEdge(context, points, y, 1);
  context.closePath();
  context.fillStyle = colour;
  context.fill();
}

/** One edge of a ribbon, left to right for the upper one and back again for the lower one. */
function smoothEdge(
  context: CanvasRenderingContext2D,
  points: readonly number[],
  y: number,
  side: -1 | 1,
): void {
  const count = points.length / 2;
  for (let n = 1; n < count; n++) {
    const i = side < 0 ? n : count - 1 - n;
    const before = side < 0 ? i - 1 : i + 1;
    const px = points[2 * before]!;
    const py = y + side * points[2 * before + 1]!;
    const x = points[2 * i]!;
    const edge = y + side * points[2 * i + 1]!;
    context.quadraticCurveTo(px, py, (px + x) / 2, (py + edge) / 2);
  }
}

function drawNib(
  context: CanvasRenderingContext2D,
  g: Geometry,
  levels: LaneLevels,
  y: number,
  colour: string,
): void {
  const level = levelAround(levels, g.nowMs - 2 * LEVEL_MS);
  const x = Math.min(g.width - 8, xOf(g, g.nowMs));
  context.fillStyle = colour;
  context.globalAlpha = 0.16;
  disc(context, x, y, 7 + 16 * level);
  context.globalAlpha = 1;
  disc(context, x, y, 4.5);
}

function disc(context: CanvasRenderingContext2D, x: number, y: number, radius: number): void {
  context.beginPath();
  context.arc(x, y, radius, 0, 2 * Math.PI);
  context.fill();
}

function drawTogether(
  context: CanvasRenderingContext2D,
  g: Geometry,
  source: ScoreSource,
  colours: ScoreColours,
): void {
  const top = g.userY - g.swing - 5;
  const bottom = g.modelY + g.swing + 4;
  for (const { startMs, endMs } of source.together()) {
    const left = xOf(g, startMs);
    const right = Math.min(xOf(g, endMs), g.width);
    if (right < 0 || left > g.width) continue;
    context.fillStyle = colours.both;
    context.globalAlpha = 0.09;
    context.fillRect(left, top, right - left, bottom - top);
    context.globalAlpha = 0.75;
    context.fillRect(left, top, 1, bottom - top);
    context.fillRect(right - 1, top, 1, bottom - top);
    context.globalAlpha = 1;
    if (right - left < 78) continue;
    context.font = "600 11px 'Instrument Sans Variable', system-ui, sans-serif";
    context.textAlign = "center";
    context.fillText("both at once", (left + right) / 2, bottom - 7);
  }
  context.textAlign = "left";
}

function drawLookups(
  context: CanvasRenderingContext2D,
  g: Geometry,
  source: ScoreSource,
  colours: ScoreColours,
): void {
  const y = g.threadY;
  context.lineWidth = 1.5;
  source.lookups().forEach((lookup, index) => {
    const left = xOf(g, lookup.startMs);
    const open = lookup.state === "looking";
    const right = Math.min(
      Math.max(xOf(g, open ? g.nowMs : (lookup.endMs ?? lookup.startMs)), left + 14),
      g.width - 10,
    );
    if (right < 0 || left > g.width) return;
    const found = lookup.state === "answered" || lookup.state === "told";
    context.strokeStyle = open || found ? colours.ink : colours.faint;
    context.fillStyle = context.strokeStyle;
    context.setLineDash(found ? [] : [2, 4]);
    context.lineDashOffset = open ? g.nowMs / 40 : 0;
    context.beginPath();
    context.moveTo(left, y);
    context.lineTo(right, y);
    context.stroke();
    context.setLineDash([]);
    disc(context, left, y, 2.5);
    if (found) disc(context, right, y, 3.5);
    context.font = "600 11px 'Instrument Sans Variable', system-ui, sans-serif";
    context.textAlign = "right";
    context.fillText(String(source.numberOf(index)), left - 8, y + 4);
    context.textAlign = "left";
  });
}

function drawCaptions(
  context: CanvasRenderingContext2D,
  g: Geometry,
  turns: readonly Turn[],
  colours: ScoreColours,
): void {
  context.font = "italic 400 16px 'Newsreader Variable', Georgia, serif";
  for (const role of ["user", "model"] as const) {
    const y = role === "user" ? TOP_PX - 12 : g.captionY;
    context.fillStyle = role === "user" ? colours.user : colours.model;
    let limit = Number.POSITIVE_INFINITY;
    for (const turn of turns.toReversed()) {
      if (turn.role !== role || turn.text.trim() === "") continue;
      const left = xOf(g, turn.startMs);
      if (left > g.width) continue;
      const text = fitted(context, turn.text + (turn.cutOff ? "\u2014" : ""), limit - left);
      context.fillText(text, left, y);
      limit = left - MIN_CAPTION_GAP_PX;
      if (left < -g.width) break;
    }
  }
}

/** The beginning of `text` that fits into `room` pixels. */
function fitted(context: CanvasRenderingContext2D, text: string, room: number): string {
  if (room === Number.POSITIVE_INFINITY) return text;
  let shown = text;
  while (shown.length > 1 && context.measureText(shown).width > room)
    shown = `${shown.slice(0, Math.floor(shown.length * 0.85)).trimEnd()}\u2026`;
  return shown.length > 1 ? shown : "";
}

function drawTicks(context: CanvasRenderingContext2D, g: Geometry, colours: ScoreColours): void {
  context.font = "500 11px 'Instrument Sans Variable', system-ui, sans-serif";
  context.fillStyle = colours.faint;
  const everyMs = 5000;
  for (let ms = Math.ceil(g.startMs / everyMs) * everyMs; ms <= g.nowMs; ms += everyMs) {
    if (ms < 0) continue;
    const x = xOf(g, ms);
    context.globalAlpha = 0.6;
    context.fillRect(x, g.height - 8, 1, 8);
    context.globalAlpha = 1;
    context.fillText(clockText(ms), x + 5, g.height - 1);
  }
}
