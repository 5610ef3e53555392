export class Line {
    now;
    #sockets = new Set();
    #downUntil = 0;
    WebSocket;
    constructor(Base = globalThis.WebSocket, now = Date.now) {
        this.now = now;
        const line = this;
        this.WebSocket = class extends Base {
            constructor(url) {
                if (line.now() < line.#downUntil)
                    throw new Error("the connection is cut");
                super(url);
                line.#sockets.add(this);
                this.addEventListener("close", () => line.#sockets.delete(this));
            }
        };
    }
    cut(ms) {
        this.#downUntil = this.now() + ms;
        for (const socket of this.#sockets)
            socket.close(3000, "cut");
    }
}
export class Recovery {
    #cutAt = 0;
    #liveAt = 0;
    recovered = 0;
    gaps = 0;
    cut(at) {
        [this.#cutAt, this.#liveAt, this.recovered, this.gaps] = [at, 0, 0, 0];
    }
    live(at) {
        if (this.#cutAt > 0 && this.#liveAt === 0)
            this.#liveAt = at;
    }
    event(timestamp) {
        if (this.#liveAt > 0 && timestamp > this.#cutAt && timestamp < this.#liveAt)
            this.recovered += 1;
    }
    gap() {
        if (this.#cutAt > 0)
            this.gaps += 1;
    }
    get text() {
        if (this.#cutAt === 0)
            return "";
        if (this.#liveAt === 0)
            return "Cut. The bot trades on; the client tries to come back.";
        const seconds = ((this.#liveAt - this.#cutAt) / 1000).toFixed(1);
        const lost = this.gaps > 0 ? "some are missing, which the client was told" : "no order or trade is missing";
        return `Back after ${seconds} s, with ${this.recovered} events that the bot made meanwhile; ${lost}.`;
    }
}
