"""How the page of `mkroot build --report` looks, and the little that it does: sort, filter, open what is linked to."""

from __future__ import annotations

COLOURS = {  # state: ground and text on a light screen, on a dark one; at least 7 to 1 (WCAG 1.4.6)
    "done": ("#e2f4e7", "#124a28", "#16341f", "#aee6be"),
    "unchanged": ("#e9eef4", "#35445a", "#242d38", "#bccadb"),
    "failed": ("#fde3e3", "#7d1616", "#4a1b1f", "#ffc2c2"),
    "skipped": ("#fcf0d6", "#5c3f04", "#3d2f12", "#f2d394"),
    "running": ("#e0ebfc", "#173d7a", "#1a2d4b", "#b4d0ff"),
    "waiting": ("#f1f1f4", "#44474f", "#22262c", "#c2c6cd"),
}
STYLE = """
.hide { position: absolute; width: 1px; height: 1px; overflow: hidden; clip-path: inset(50%); white-space: nowrap }
.counts { display: flex; flex-wrap: wrap; gap: .5rem; padding: 0; list-style: none }
.counts li, .state { border-radius: .3rem; padding: .05rem .5rem; white-space: nowrap }
.faults li { margin-bottom: 1rem; overflow-wrap: anywhere } .faults p { margin: .1rem 0; white-space: pre-wrap }
a { color: inherit } caption { text-align: left; color: var(--soft); padding-bottom: .4rem }
caption span { display: inline-block; max-width: calc(100vw - 3rem) }
.grid th, .grid td { border: 1px solid var(--line); padding: .2rem .5rem; vertical-align: top }
.grid tbody th { min-width: 6rem; max-width: 16rem; overflow-wrap: break-word; color: inherit }
.grid thead th { text-align: center }
.grid td { font-size: .9rem; text-align: left; min-width: 5rem } .grid small { display: block; white-space: nowrap }
.grid td a { text-decoration: none; white-space: nowrap; font-weight: 600 }
.grid td a:hover { text-decoration: underline }
#builds { width: 100% } #builds th { vertical-align: bottom }
#builds td, #builds tbody th { border: 0; vertical-align: top }
#builds tbody { border-bottom: 1px solid var(--line) }
#builds tbody th { color: inherit; min-width: 14rem; overflow-wrap: anywhere }
#builds td { white-space: nowrap } #builds .more td { padding-bottom: .3rem; white-space: normal }
#builds tbody:target { outline: 2px solid currentColor; outline-offset: -2px }
th button { all: unset; cursor: pointer } th button:focus-visible { outline: 2px solid currentColor }
th button::after { content: ' ↕' } [aria-sort=ascending] button::after { content: ' ↑' }
[aria-sort=descending] button::after { content: ' ↓' }
summary { cursor: pointer; color: var(--soft); font-size: .85rem; width: fit-content } details p { margin: .3rem 0 }
pre { max-height: 30rem; overflow: auto; white-space: pre-wrap; overflow-wrap: anywhere; margin: .3rem 0;
  padding: .6rem; border: 1px solid var(--line); border-radius: .3rem; font: 12.5px/1.45 ui-monospace, monospace }
form { display: flex; flex-wrap: wrap; gap: .4rem 1rem; align-items: center; margin: .8rem 0 }
form :is(input, select) { font: inherit; padding: .1rem .4rem; max-width: 100% }
@media (max-width: 45rem) {
body { margin: 1rem auto } #builds, #builds :is(caption, tbody, .more, .more td) { display: block }
#builds thead, #builds td:empty { display: none } #builds tr.build { display: flex; flex-wrap: wrap; gap: 0 .8rem }
#builds tbody { padding: .4rem 0 } #builds tbody th { flex: 1 0 100% } #builds tbody :is(td, th) { padding: .1rem 0 }
#builds .packages::after { content: ' packages' }
.grid :is(tbody th, th[rowspan]) { position: sticky; left: 0; max-width: 8rem; background: var(--ground) } }
@media print { body { margin: 0; max-width: none; font-size: 11px } form { display: none }
  tbody, tr { break-inside: avoid }
  .counts li, .state, .grid td { print-color-adjust: exact } pre { max-height: none } }
"""
SCRIPT = """
(() => {
  const table = document.getElementById('builds')
  if (!table) return
  const builds = [...table.tBodies], heads = [...table.tHead.rows[0].cells]
  const make = (name, given) => Object.assign(document.createElement(name), given)

  const form = make('form', {onsubmit: () => false}), told = make('output', {className: 'soft'})
  const words = make('input', {type: 'search'}), state = make('select')
  const label = (text, field) => { const l = make('label', {textContent: text + ' '}); l.append(field); return l }
  state.append(make('option', {value: '', textContent: 'all'}))
  for (const s of new Set(builds.map(b => b.dataset.state))) state.append(make('option', {value: s, textContent: s}))
  const names = builds.map(b => b.rows[0].textContent.toLowerCase())
  const filter = () => {
    const asked = words.value.toLowerCase().split(' ')
    let shown = 0
    builds.forEach((b, n) => {
      b.hidden = (state.value && b.dataset.state !== state.value) || !asked.every(w => names[n].includes(w))
      shown += !b.hidden
    })
    told.textContent = shown === builds.length ? '' : `${shown} of ${builds.length}`
  }
  words.oninput = state.onchange = filter
  form.append(label('filter', words), label('state', state), told)
  table.parentNode.before(form)

  const key = (build, column) => {
    const cell = build.rows[0].cells[column]
    return cell.dataset.v === undefined ? cell.textContent : Number(cell.dataset.v)
  }
  heads.forEach((head, column) => {
    const button = make('button', {type: 'button', textContent: head.textContent})
    head.replaceChildren(button)
    button.onclick = () => {
      const down = head.getAttribute('aria-sort') === 'ascending'
      heads.forEach(h => h.removeAttribute('aria-sort'))
      head.setAttribute('aria-sort', down ? 'descending' : 'ascending')
      const keyed = builds.map(b => [key(b, column), b])
      keyed.sort(([a], [b]) => (a < b ? -1 : a > b ? 1 : 0) * (down ? -1 : 1))
      table.append(...keyed.map(([, b]) => b))
    }
  })

  const open = () => {
    const build = document.getElementById(location.hash.slice(1))
    if (!build || !builds.includes(build)) return
    if (build.hidden) { words.value = state.value = ''; filter() }
    const more = build.querySelector('details')
    if (more) more.open = true
    build.scrollIntoView()
  }
  addEventListener('hashchange', open)
  open()
})()
"""
