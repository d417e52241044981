// Live figures in both themes, folded code, boxes that scroll. Runs from file:// and asks no server for anything.
(function () {
  'use strict';
  const all = (selector, root) => Array.from((root || document).querySelectorAll(selector));

  // ---- theme ----
  const media = window.matchMedia('(prefers-color-scheme: dark)');
  function isDark() {
    const chosen = document.body.dataset.theme;
    return chosen === 'dark' || (chosen !== 'light' && media.matches);
  }

  // ---- figures ----
  const inks = window.siteInks || {};
  function darken(part) {
    if (typeof part === 'string') return Object.prototype.hasOwnProperty.call(inks, part) ? inks[part] : part;
    if (Array.isArray(part)) return part.map(darken);
    if (part === null || typeof part !== 'object') return part;
    return Object.fromEntries(Object.entries(part).map(([name, inner]) => [name, darken(inner)]));
  }
  function draw(box) {
    const plot = box.querySelector('.plot');
    let figure = JSON.parse(box.querySelector('script[type="application/json"]').textContent);
    if (isDark()) figure = darken(figure);
    for (const ground of ['paper_bgcolor', 'plot_bgcolor']) {
      if (!figure.layout[ground]) figure.layout[ground] = 'rgba(0,0,0,0)';
    }
    const fixed = Boolean(figure.layout.width);
    const settings = { displaylogo: false, responsive: !fixed };
    return window.Plotly.react(plot, figure.data, figure.layout, settings).then(() => {
      box.dataset.drawn = isDark() ? 'dark' : 'light';
      makeScrollable(box);
    });
  }
  function drawWhenNear(boxes) {
    if (!window.IntersectionObserver) return boxes.forEach(draw);
    const watch = new IntersectionObserver(seen => seen.forEach(each => {
      if (!each.isIntersecting) return;
      watch.unobserve(each.target);
      draw(each.target);
    }), { rootMargin: '600px 0px' });
    boxes.forEach(box => watch.observe(box));
  }
  function redraw() {
    const theme = isDark() ? 'dark' : 'light';
    all('.live-figure[data-drawn]').filter(box => box.dataset.drawn !== theme).forEach(draw);
  }

  // ---- folded code ----
  const KEY = 'cxr-all-code';
  function remembered() { try { return localStorage.getItem(KEY) === 'open'; } catch (error) { return false; } }
  function remember(open) { try { localStorage.setItem(KEY, open ? 'open' : 'folded'); } catch (error) { /* private window */ } }
  function setAll(open) {
    all('details.exported').forEach(fold => { fold.open = open; });
    all('button.all-code').forEach(button => {
      button.textContent = open ? 'Fold all code' : 'Show all code';
      button.setAttribute('aria-pressed', String(open));
    });
  }
  function startFolds() {
    const folds = all('details.exported');
    all('button.all-code').forEach(button => {
      button.hidden = folds.length === 0;
      button.addEventListener('click', () => {
        const open = button.getAttribute('aria-pressed') !== 'true';
        remember(open);
        setAll(open);
      });
    });
    if (folds.length) setAll(remembered());
    openTarget();
    window.addEventListener('hashchange', openTarget);
  }
  function openTarget() {
    const target = location.hash && document.getElementById(decodeURIComponent(location.hash.slice(1)));
    const fold = target && target.closest('details.exported');
    if (!fold) return;
    fold.open = true;
    fold.scrollIntoView();
  }

  // ---- boxes that scroll are reached by the keyboard ----
  function makeScrollable(box) {
    if (box.scrollWidth > box.clientWidth + 1) box.tabIndex = 0;
    else box.removeAttribute('tabindex');
  }

  // ---- equations: a little too wide is made smaller, much too wide scrolls ----
  function fitEquations() {
    all('div.math').forEach(box => {
      const math = box.querySelector('mjx-container');
      if (math && box.scrollWidth > box.clientWidth + 1) {
        const share = Math.max(box.clientWidth/box.scrollWidth, .72);
        math.style.fontSize = `${Math.floor(100*share) - 1}%`;
      }
      makeScrollable(box);
    });
    document.body.dataset.equations = 'done';
  }
  function startEquations() {
    const typeset = window.MathJax && window.MathJax.startup && window.MathJax.startup.promise;
    if (typeset) typeset.then(fitEquations);
  }

  // ---- search: what a page is about, below its title ----
  function explainResults() {
    const list = document.getElementById('search-results');
    if (!list || !window.siteSummaries) return;
    const explain = () => all('li > a', list).forEach(link => {
      if (link.dataset.said) return;
      link.dataset.said = 'yes';
      const name = link.getAttribute('href').split('#')[0].split('?')[0].replace(/\.html$/, '');
      const said = window.siteSummaries[name];
      if (!said) return;
      const line = document.createElement('span');
      line.className = 'says';
      line.textContent = said;
      link.parentNode.appendChild(line);
    });
    new MutationObserver(explain).observe(list, { childList: true, subtree: true });
    explain();
  }

  startFolds();
  explainResults();
  window.addEventListener('load', startEquations);
  all('.table-wrapper, .output.text_html').forEach(makeScrollable);
  const figures = all('.live-figure');
  if (figures.length && window.Plotly) {
    drawWhenNear(figures);
    new MutationObserver(redraw).observe(document.body, { attributes: true, attributeFilter: ['data-theme'] });
    media.addEventListener('change', redraw);
    window.addEventListener('beforeprint', () => figures.filter(box => !box.dataset.drawn).forEach(draw));
  }
})();
