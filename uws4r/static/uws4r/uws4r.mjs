// uws4r.js as an ES module: import { Uws4r } from ".../uws4r/uws4r.mjs"
import "./uws4r.js";

export const Uws4r = globalThis.Uws4r;
export default Uws4r;
