// The browser's half of the example: one websocket a page, a list of messages, a form.

const page = document.body.dataset;
const state = document.querySelector("#state");
const list = document.querySelector("#messages");
const form = document.querySelector("form.compose");

const me = Math.random().toString(36).slice(2); // this window, among all the guests of the lobby

const client = new Uws4r(`/ws/${page.facility}?${page.flags}`, {
  onmessage: (event) => show(read(event.data)),
});
for (const type of ["connecting", "open", "close"]) client.addEventListener(type, showState);

/** Anybody may publish in the lobby, and anything: what is no message of ours is shown as it is. */
function read(data) {
  try {
    const { from, text, by } = JSON.parse(data);
    return { from: String(from), text: String(text), mine: by ? by === me : from === page.user };
  } catch {
    return { from: "?", text: String(data) };
  }
}

function show({ from, text, mine = false }) {
  const item = document.createElement("li");
  const name = document.createElement("b");
  name.textContent = from; // text, never markup
  item.append(name, text);
  item.classList.toggle("mine", mine);
  list.append(item);
  list.scrollTop = list.scrollHeight;
}

function showState() {
  state.textContent = state.className = client.state;
  form.querySelector("button").disabled = client.state !== "open";
}

form.addEventListener("submit", async (event) => {
  event.preventDefault();
  if (form.method === "post") {
    const response = await fetch(form.action, { method: "POST", body: new FormData(form) });
    if (!response.ok) show({ from: "the server", text: `refused (${response.status})` });
  } else {
    const from = form.elements.name ? form.elements.name.value : page.user;
    client.send(JSON.stringify({ from, text: form.elements.text.value, by: me }));
  }
  form.elements.text.value = "";
  form.elements.text.focus();
});
