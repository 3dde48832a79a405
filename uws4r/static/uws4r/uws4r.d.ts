/**
 * The browser client of uws4r: a WebSocket that comes back.
 *
 * Global after `<script src=".../uws4r/uws4r.js">`; `import { Uws4r } from ".../uws4r/uws4r.mjs"` gives the same class.
 */
declare class Uws4r extends EventTarget {
  /**
   * Open a connection, and open it again whenever it is lost.
   *
   * @param uri `"/ws/foo?subscribe-broadcast"`, relative to the page, or an `http:`, `https:`, `ws:` or `wss:` URL.
   *   Relative and `http:` ones become `wss:` on a page that came over TLS.
   * @throws TypeError No address, an unknown option, or an option of the wrong type; the message says what to write.
   */
  constructor(uri: string | URL, options?: Uws4r.Options | null);

  /** Where it connects to, resolved. */
  readonly url: string;

  /** What the client does now. */
  readonly state: Uws4r.State;

  /** `readyState` of the present WebSocket: 0 connecting, 1 open, 2 closing, 3 closed or none. */
  readonly readyState: 0 | 1 | 2 | 3;

  /** Bytes that the browser has not sent yet; the queue does not count. */
  readonly bufferedAmount: number;

  /**
   * Send a message; while there is no open connection, queue it.
   *
   * @throws TypeError It is neither text nor binary.
   * @throws Error `queueLimit` messages wait already, or the client is closed or has given up.
   */
  send(data: string | ArrayBuffer | ArrayBufferView | Blob): void;

  /**
   * Close for good: no more attempts, and what is queued is dropped.
   *
   * @param code 1000, or 3000–4999, the default being none.
   * @param reason At most 123 bytes of UTF-8.
   * @throws DOMException The browser refuses the code or the reason; nothing has changed then.
   */
  close(code?: number, reason?: string): void;

  /** Start again after `close()` or giving up; while waiting, try now. Otherwise nothing happens. */
  reconnect(): void;

  addEventListener<Type extends keyof Uws4r.EventMap>(
    type: Type,
    listener: ((this: Uws4r, event: Uws4r.EventMap[Type]) => unknown) | null,
    options?: boolean | AddEventListenerOptions,
  ): void;
  addEventListener(
    type: string,
    listener: EventListenerOrEventListenerObject | null,
    options?: boolean | AddEventListenerOptions,
  ): void;

  removeEventListener<Type extends keyof Uws4r.EventMap>(
    type: Type,
    listener: ((this: Uws4r, event: Uws4r.EventMap[Type]) => unknown) | null,
    options?: boolean | EventListenerOptions,
  ): void;
  removeEventListener(
    type: string,
    listener: EventListenerOrEventListenerObject | null,
    options?: boolean | EventListenerOptions,
  ): void;
}

declare namespace Uws4r {
  /**
   * - `connecting`: an attempt is under way.
   * - `open`: messages come and go.
   * - `waiting`: the connection was lost; the next attempt has its time.
   * - `closing`, `closed`: by `close()`.
   * - `gaveup`: the server closed for good, or too many attempts failed.
   */
  type State = "connecting" | "open" | "waiting" | "closing" | "closed" | "gaveup";

  interface Options {
    /** The setting `WS4REDIS_HEARTBEAT`, where it is set. Sent every 5 s; 4 in a row unanswered lose the connection. */
    heartbeat?: string | null;

    /** Attempts in a row that may fail. Default: 10 until it has been open once, `Infinity` from then on. */
    giveUpAfter?: number | null;

    /** Messages that may wait for a connection; 0: none, `send` throws instead. Default: 100. */
    queueLimit?: number | null;

    /** How binary messages arrive. Default: `"arraybuffer"`. */
    binaryType?: "arraybuffer" | "blob" | null;

    /** An attempt begins; of the first one only this callback is told, inside the constructor. */
    onconnecting?: ((this: Uws4r, event: Event) => unknown) | null;
    /** The connection is open, what was queued has been sent. */
    onopen?: ((this: Uws4r, event: Event) => unknown) | null;
    /** A message has come. */
    onmessage?: ((this: Uws4r, event: MessageEvent) => unknown) | null;
    /** A connection is over, or an attempt has failed; `state` says what follows. */
    onclose?: ((this: Uws4r, event: CloseEvent) => unknown) | null;
    /** There will be no more attempts. */
    ongiveup?: ((this: Uws4r, event: GiveUpEvent) => unknown) | null;
  }

  interface MessageEvent extends Event {
    /** A string for text; for binary what `binaryType` says. */
    readonly data: string | ArrayBuffer | Blob;
  }

  interface CloseEvent extends Event {
    /** RFC 6455 §7.4; 1006 where there was no close frame. */
    readonly code: number;
    readonly reason: string;
    /** Whether both sides said good-bye. */
    readonly wasClean: boolean;
  }

  interface GiveUpEvent extends Event {
    /** The code of the last close. */
    readonly code: number;
    /** Why, in words. */
    readonly reason: string;
  }

  interface EventMap {
    connecting: Event;
    open: Event;
    message: MessageEvent;
    close: CloseEvent;
    giveup: GiveUpEvent;
  }
}
