// The browser's half of the example: one websocket a page, a list of messages, a form.

const page = document.body.dataset;
const state = document.querySelector("#state");
const list = document.querySelector("#messages");
const form = document.querySelector("form.compose");

const url = new URL(`/ws/${page.facility}?${page.flags}`, location.href);
url.protocol = location.protocol === "https:" ? "wss:" : "ws:";

let socket;
let attempts = 0;

/** Anybody may publish in the lobby, and anything: what is no message of ours is shown as it is. */
function read(data) {
  try {
    const { from, text } = JSON.parse(data);
    return { from: String(from), text: String(text) };
  } catch {
    return { from: "?", text: String(data) };
  }
}

function show({ from, text }) {
  const item = document.createElement("li");
  const name = document.createElement("b");
  name.textContent = from; // text, never markup
  item.append(name, text);
  item.classList.toggle("mine", from === sender());
  list.append(item);
  list.scrollTop = list.scrollHeight;
}

function sender() {
  return form.elements.name ? form.elements.name.value : page.user;
}

function setState(name) {
  state.textContent = state.className = name;
  form.querySelector("button").disabled = name !== "open";
}

function connect() {
  socket = new WebSocket(url);
  socket.onopen = () => {
    attempts = 0;
    setState("open");
  };
  socket.onmessage = (event) => show(read(event.data));
  socket.onclose = () => {
    setState("connecting");
    // Everybody's pause is another one, so that a restarted server is not stormed.
    setTimeout(connect, Math.random() * Math.min(30_000, 500 * 2 ** attempts++));
  };
}

form.addEventListener("submit", async (event) => {
  event.preventDefault();
  if (form.method === "post") {
    const response = await fetch(form.action, { method: "POST", body: new FormData(form) });
    if (!response.ok) show({ from: "the server", text: `refused (${response.status})` });
  } else {
    socket.send(JSON.stringify({ from: sender(), text: form.elements.text.value }));
  }
  form.elements.text.value = "";
  form.elements.text.focus();
});

connect();
