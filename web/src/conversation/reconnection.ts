/**
 * When to try again after a connection was lost: at once when the network returns, otherwise with
 * growing pauses, until the server has forgotten the session.
 *
 * A server that answers but refuses the session `MAX_REFUSALS` times has already forgotten it.
 */

import { retryWaitMs } from "./machine";

const MAX_REFUSALS = 3;

export interface ReconnectionEvents {
  attempt(number: number): void;
  giveUp(): void;
}

export class Reconnection {
  private number = 0;
  private refusals = 0;
  private timer: ReturnType<typeof setTimeout> | undefined;
  private over = false;
  private trying = false;
  private readonly online = () => {
    if (!this.trying) this.again(0);
  };

  constructor(
    private readonly deadlineMs: number,
    private readonly events: ReconnectionEvents,
    private readonly nowMs: () => number = Date.now,
  ) {}

  begin(): void {
    globalThis.addEventListener?.("online", this.online);
    this.again(retryWaitMs(1));
  }

  /** The attempt under way came to nothing; `answered`: the server is there all the same. */
  failed(answered: boolean): void {
    if (this.over) return;
    this.trying = false;
    if (answered) this.refusals += 1;
    const waitMs = retryWaitMs(this.number + 1);
    if (this.refusals >= MAX_REFUSALS || this.nowMs() + waitMs > this.deadlineMs) {
      this.cancel();
      this.events.giveUp();
    } else {
      this.again(waitMs);
    }
  }

  cancel(): void {
    this.over = true;
    clearTimeout(this.timer);
    globalThis.removeEventListener?.("online", this.online);
  }

  private again(waitMs: number): void {
    clearTimeout(this.timer);
    this.timer = setTimeout(() => {
      if (this.over) return;
      this.trying = true;
      this.number += 1;
      this.events.attempt(this.number);
    }, waitMs);
  }
}
