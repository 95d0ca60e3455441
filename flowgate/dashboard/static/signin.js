// Coming in: by password, or by a one-time link to a password.
import { html, useEffect, useState } from "./lib.js";
import { call } from "./api.js";
import { Button, Field, Form } from "./ui.js";
import { sentence } from "./format.js";

function Frame({ title, lead, children }) {
  useEffect(() => { document.title = `${title} – Flow-Gate`; }, [title]);
  return html`<main id="main" class="gate">
    <div class="brand"><img src="/dashboard/static/icon.svg" alt="" width="40" height="40" /><span>Flow-Gate</span></div>
    <div class="card">
      <h1>${title}</h1>
      ${lead && html`<p class="lead">${lead}</p>`}
      ${children}
    </div>
    <p class="foot"><a href="/docs">API documentation</a></p>
  </main>`;
}

export function SignIn({ enter, note, firstStart }) {
  const [user, setUser] = useState("");
  const [password, setPassword] = useState("");
  const submit = async () => enter(await call("POST", "session", { user: user.trim(), password }));
  return html`<${Frame} title="Sign in" lead=${note}>
    ${firstStart && html`<p class="note">Nobody can sign in yet. Open the one-time link that the gateway wrote into its log when it
      started; if it is too old, start the gateway again, or run <code>flowgate user link USER --admin</code>.</p>`}
    <${Form} submit=${submit} label="Sign in">${(busy) => html`
      <${Field} label="User name">${(bind) => html`<input ...${bind} name="user" autocomplete="username" autocapitalize="none"
        spellcheck=${false} value=${user} onInput=${(event) => setUser(event.target.value)} autofocus />`}<//>
      <${Field} label="Password">${(bind) => html`<input ...${bind} name="password" type="password" autocomplete="current-password"
        value=${password} onInput=${(event) => setPassword(event.target.value)} />`}<//>
      <${Button} type="submit" kind="main full" disabled=${busy || !user || !password}>Sign in<//>`}<//>
  <//>`;
}

export function SetUp({ link, enter, leave }) {
  const [known, setKnown] = useState(null);
  const [problem, setProblem] = useState("");
  const [user, setUser] = useState("");
  const [app, setApp] = useState("");
  const [password, setPassword] = useState("");
  useEffect(() => {
    call("POST", "link", { link }).then(
      (found) => {
        setKnown(found);
        setUser(found.user);
        setApp(found.app || "");
      },
      (refused) => setProblem(sentence(refused)),
    );
  }, [link]);
  if (problem) {
    return html`<${Frame} title="This link does not work" lead=${problem}>
      <${Button} kind="main full" onClick=${leave}>Sign in<//>
    <//>`;
  }
  if (!known) return html`<${Frame} title="One moment …" />`;
  const first = !known.user;
  const submit = async () => enter(await call("POST", "link/use", { link, user, app, password }));
  const left = known.shortest - password.length;
  const label = "1 to 32 of a–z, 0–9 and -";
  return html`<${Frame} title=${first ? "Set up your gateway" : `Welcome, ${known.user}`}
    lead=${first ? "You are its first administrator. Choose how you sign in from now on." : "Choose the password that you sign in with."}>
    <${Form} submit=${submit} label="Set up">${(busy) => html`
      ${first
        ? html`<${Field} label="User name" hint=${label}>${(bind) => html`<input ...${bind} name="user" autocomplete="username"
            autocapitalize="none" spellcheck=${false} maxlength="32" value=${user} autofocus
            onInput=${(event) => setUser(event.target.value.toLowerCase())} />`}<//>`
        : html`<input type="hidden" name="user" autocomplete="username" value=${user} />`}
      ${(first || !known.app) && html`<${Field} label="Application" hint=${"What you build; topics are named user_app_topic"}>${(bind) => html`
        <input ...${bind} name="app" autocomplete="off" autocapitalize="none" spellcheck=${false} maxlength="32" value=${app}
          onInput=${(event) => setApp(event.target.value.toLowerCase())} />`}<//>`}
      <${Field} label="Password" hint=${left > 0 && password ? `${left} more characters` : `${known.shortest} characters or more; a few words are best`}>${(bind) => html`
        <input ...${bind} name="password" type="password" autocomplete="new-password" maxlength=${known.longest} value=${password}
          onInput=${(event) => setPassword(event.target.value)} />`}<//>
      <${Button} type="submit" kind="main full" disabled=${busy || !user || !app || left > 0}>${first ? "Set up and sign in" : "Set password and sign in"}<//>`}<//>
  <//>`;
}

export function ChangePassword({ enter, done }) {
  const [old, setOld] = useState("");
  const [fresh, setFresh] = useState("");
  const submit = async () => {
    enter(await call("POST", "password", { old, new: fresh }));
    done();
  };
  return html`<${Form} submit=${submit} label="Change password">${(busy) => html`
    <p>All your other sessions end.</p>
    <${Field} label="Old password">${(bind) => html`<input ...${bind} type="password" autocomplete="current-password" value=${old}
      onInput=${(event) => setOld(event.target.value)} />`}<//>
    <${Field} label="New password" hint="12 characters or more">${(bind) => html`<input ...${bind} type="password" autocomplete="new-password"
      value=${fresh} onInput=${(event) => setFresh(event.target.value)} />`}<//>
    <div class="actions"><${Button} type="submit" kind="main" disabled=${busy || !old || fresh.length < 12}>Change password<//></div>`}<//>`;
}
