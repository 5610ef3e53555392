// The connection, with a switch that cuts it for a while, to show what comes back.

/** A WebSocket class whose connections can be cut, as a network does that fails. */
export class Line {
  #sockets = new Set<WebSocket>();
  #downUntil = 0;

  /** The class to give to the client. */
  readonly WebSocket: any;

  constructor(Base: typeof WebSocket = globalThis.WebSocket, readonly now: () => number = Date.now) {
    const line = this;
    this.WebSocket = class extends Base {
      constructor(url: string) {
        if (line.now() < line.#downUntil) throw new Error("the connection is cut");
        super(url);
        line.#sockets.add(this);
        this.addEventListener("close", () => line.#sockets.delete(this));
      }
    };
  }

  /** Ends all connections, and refuses new ones for a while. */
  cut(ms: number): void {
    this.#downUntil = this.now() + ms;
    for (const socket of this.#sockets) socket.close(3000, "cut");
  }
}

/** What came back after a cut. */
export class Recovery {
  #cutAt = 0;
  #liveAt = 0;
  recovered = 0;
  gaps = 0;

  /** The connection was cut. Times are Unix milliseconds. */
  cut(at: number): void {
    [this.#cutAt, this.#liveAt, this.recovered, this.gaps] = [at, 0, 0, 0];
  }

  live(at: number): void {
    if (this.#cutAt > 0 && this.#liveAt === 0) this.#liveAt = at;
  }

  /** An event arrived. Those that happened while the connection was cut were recovered. */
  event(timestamp: number): void {
    if (this.#liveAt > 0 && timestamp > this.#cutAt && timestamp < this.#liveAt) this.recovered += 1;
  }

  gap(): void {
    if (this.#cutAt > 0) this.gaps += 1;
  }

  /** What to tell; empty if nothing was cut. */
  get text(): string {
    if (this.#cutAt === 0) return "";
    if (this.#liveAt === 0) return "Cut. The bot trades on; the client tries to come back.";
    const seconds = ((this.#liveAt - this.#cutAt) / 1000).toFixed(1);
    const lost = this.gaps > 0 ? "some are missing, which the client was told" : "no order or trade is missing";
    return `Back after ${seconds} s, with ${this.recovered} events that the bot made meanwhile; ${lost}.`;
  }
}
