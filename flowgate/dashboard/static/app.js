// The frame around the pages: who is signed in, where one is, and how it looks.
import { html, render, useEffect, useState } from "./lib.js";
import { call, forgetTokens, onSignedOut, useSession } from "./api.js";
import { Button, Dialog, Icon, Toasts, say } from "./ui.js";
import { sentence } from "./format.js";
import { ChangePassword, SetUp, SignIn } from "./signin.js";
import { Live } from "./live.js";
import { Keys } from "./keys.js";
import { Queue, Queues } from "./queues.js";
import { Usage } from "./usage.js";
import { Admin } from "./admin.js";

const PAGES = [
  { name: "live", title: "Live", page: Live },
  { name: "keys", title: "Keys", page: Keys },
  { name: "queues", title: "Queues", page: Queues },
  { name: "usage", title: "Usage", page: Usage, needs: "usage" },
  { name: "admin", title: "Admin", page: Admin, admin: true },
];

const THEMES = { auto: ["auto", "Colours as the system has them"], light: ["sun", "Light colours"], dark: ["moon", "Dark colours"] };

function keep(name, value) {
  try {
    if (value === undefined) return localStorage.getItem(name) || "";
    localStorage.setItem(name, value);
  } catch {
    // A browser that keeps nothing: it is asked again the next time.
  }
  return value || "";
}

function Theme() {
  const [theme, setTheme] = useState(document.documentElement.dataset.theme || "auto");
  const next = { auto: "light", light: "dark", dark: "auto" }[theme];
  const change = () => {
    if (next === "auto") delete document.documentElement.dataset.theme;
    else document.documentElement.dataset.theme = next;
    keep("flowgate-theme", next);
    setTheme(next);
    dispatchEvent(new Event("flowgate-theme"));
  };
  const [icon, label] = THEMES[theme];
  return html`<${Button} kind="plain" icon=${icon} label=${`${label}. Change`} onClick=${change} />`;
}

const route = () => location.hash.replace(/^#\/?/, "").split("/").map((one) => {
  try {
    return decodeURIComponent(one);
  } catch {
    return one; // not one of our links
  }
});

function Shell({ session, refresh, enter, leave }) {
  const [place, setPlace] = useState(route());
  const [app, setApp] = useState(() => {
    const kept = keep("flowgate-app");
    return session.apps.includes(kept) ? kept : session.app;
  });
  const [account, setAccount] = useState(false);
  useEffect(() => {
    const moved = () => setPlace(route());
    addEventListener("hashchange", moved);
    return () => removeEventListener("hashchange", moved);
  }, []);
  const go = (where) => { location.hash = `#/${where}`; };
  const pages = PAGES.filter((one) => (!one.admin || session.admin) && (!one.needs || session[one.needs]));
  const current = pages.find((one) => one.name === place[0]) || pages[0];
  const single = current.name === "queues" && place[1];
  const Page = single ? Queue : current.page;
  useEffect(() => { document.title = `${single ? place[1] : current.title} – Flow-Gate`; }, [current, single]);
  const signOut = async () => {
    await call("DELETE", "session");
    leave("You have signed out.");
  };
  return html`
    <a class="skip" href="#main" onClick=${(event) => { event.preventDefault(); document.getElementById("main").focus(); }}>Skip to the page</a>
    <header class="top">
      <a class="brand" href="#/live"><img src="/dashboard/static/icon.svg" alt="" width="28" height="28" /><span>Flow-Gate</span></a>
      <nav class="main" aria-label="Pages"><ul>${pages.map((one) => html`<li key=${one.name}>
        <a href=${`#/${one.name}`} aria-current=${one === current ? "page" : undefined}><${Icon} name=${one.name} /><span>${one.title}</span></a></li>`)}</ul></nav>
      <div class="tools">
        ${session.apps.length > 1 && html`<select class="apps" aria-label="Application" value=${app}
          onChange=${(event) => { setApp(event.target.value); keep("flowgate-app", event.target.value); if (single) go("queues"); }}>
          ${session.apps.map((one) => html`<option value=${one} key=${one}>${one}</option>`)}</select>`}
        <${Theme} />
        <${Button} kind="plain" icon="user" label=${`Account of ${session.user}`} onClick=${() => setAccount(true)} />
      </div>
    </header>
    <main id="main" tabindex="-1"><${Page} key=${`${current.name}/${single || ""}`} session=${session} app=${app} name=${place[1] || ""} go=${go} refresh=${refresh} /></main>
    <footer><p>Flow-Gate ${session.version} · <a href="/docs">API documentation</a></p></footer>
    ${account && html`<${Dialog} title=${session.user} close=${() => setAccount(false)}>
      <p class="soft">${session.admin ? "Administrator. " : ""}Applications: ${session.apps.join(", ")}</p>
      <div class="actions left"><${Button} kind="main" run=${signOut}>Sign out<//></div>
      <details><summary>Change the password</summary>
        <${ChangePassword} enter=${enter} done=${() => { setAccount(false); say("The password is changed. Your other sessions have ended."); }} /></details>
    <//>`}`;
}

function linkIn(hash) {
  const found = /^#link=([\w-]+)$/.exec(hash);
  return found ? found[1] : "";
}

function App() {
  const [session, setSession] = useState(null);
  const [link, setLink] = useState(linkIn(location.hash));
  const [note, setNote] = useState("");
  const [problem, setProblem] = useState("");
  const take = (found) => {
    // Where this page came from is where programs find the gateway, whatever a proxy has made of that on the way.
    found.place = { url: location.origin, hostname: location.hostname.replace(/^\[|\]$/g, ""), socket_url: location.origin.replace(/^http/, "ws"), mqtt: found.mqtt };
    useSession(found.user ? found : null);
    setSession(found);
  };
  const ask = () => call("GET", "session").then((found) => { setProblem(""); take(found); }, (refused) => setProblem(sentence(refused)));
  const leave = (text) => {
    forgetTokens();
    setNote(text);
    take({ user: null });
    history.replaceState(null, "", "#/");
  };
  useEffect(() => {
    onSignedOut(() => leave("Your session has ended. Sign in again."));
    ask();
    const moved = () => { if (linkIn(location.hash)) setLink(linkIn(location.hash)); };
    addEventListener("hashchange", moved);
    return () => removeEventListener("hashchange", moved);
  }, []);
  const enter = (found) => {
    forgetTokens();
    setNote("");
    setLink("");
    if (linkIn(location.hash)) history.replaceState(null, "", "#/live");
    take(found);
  };
  if (problem) return html`<main id="main" class="gate"><p class="trouble" role="alert">${problem}</p><${Button} onClick=${ask}>Try again<//></main>`;
  if (!session) return html`<p class="loading">Flow-Gate is loading …</p>`;
  return html`${link
    ? html`<${SetUp} link=${link} enter=${enter} leave=${() => { setLink(""); history.replaceState(null, "", "#/"); }} />`
    : session.user
      ? html`<${Shell} key=${session.user} session=${session} refresh=${ask} enter=${enter} leave=${leave} />`
      : html`<${SignIn} enter=${enter} note=${note} firstStart=${session.first_start} />`}
    <${Toasts} />`;
}

const root = document.getElementById("app");
root.replaceChildren();
render(html`<${App} />`, root);
