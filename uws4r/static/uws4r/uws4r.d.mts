/// <reference path="./uws4r.d.ts" />
import TheGlobal = Uws4r;

export { TheGlobal as Uws4r, TheGlobal as default };
