// What a module writes.
import ByDefault, { Uws4r } from "../../../uws4r/static/uws4r/uws4r.mjs";

const options: Uws4r.Options = { onmessage: (event) => console.log(event.data) };
const client: Uws4r = new Uws4r("/ws/foo", options);
const other: ByDefault = new ByDefault("/ws/bar");
client.send("x");
other.send("y");
// @ts-expect-error: nobody knows this option
new ByDefault("/ws/foo", { nothing: 1 });
