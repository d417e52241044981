"""The picture of the workbench in the README: the app with packaged models on the phantom, in a light theme.

    python scripts/picture_bench.py                        # docs/static/workbench.png
    python scripts/picture_bench.py nbs/images/bench.png   # another place

Needs the extra `app`, Playwright's Python client and a Chromium (BROWSER_PATH, or installed).
"""
import io, re, subprocess, sys, tempfile, time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
WIDTH, HEIGHT, MOST = 1200, 960, 200_000   # pixels, pixels, bytes


def start_app(folder, port):
    "A process of the app, and its address once it is served; RuntimeError where it is not within three minutes."
    log = Path(folder)/'app.log'
    command = [sys.executable, '-c', 'from cxr_workbench.cli import main; main()', 'app', '--theme=light']
    with open(log, 'w') as file:
        server = subprocess.Popen([*command, f'--root={folder}', f'--port={port}'], stdout=file, stderr=file)
    for _ in range(1800):
        found = re.search(r'http://\S+token=\S+', log.read_text())
        if found: return server, found.group()
        if server.poll() is not None: break
        time.sleep(.1)
    server.kill()
    raise RuntimeError(f'the app did not start: {log.read_text()[-2000:]}')


def take_picture(address, browser_path, flags):
    "PNG of the panel of attacks: an effusion that is there, and a score that is pushed down."
    from playwright.sync_api import sync_playwright
    with sync_playwright() as play:
        browser = play.chromium.launch(executable_path=browser_path, args=flags)
        page = browser.new_page(viewport=dict(width=WIDTH, height=HEIGHT), color_scheme='light')
        page.goto(address, wait_until='commit')
        page.wait_for_selector('.cxr-panel .js-plotly-plot .main-svg', timeout=180_000)
        row = page.locator('.cxr-workbench > .widget-box:first-child input[type=number]')
        row.fill('2')
        row.press('Enter')
        note = "document.querySelector('.cxr-workbench > .widget-html').innerText.includes('image 2 of')"
        page.wait_for_function(note, timeout=180_000)
        page.locator('.cxr-workbench select').nth(2).select_option('Pleural Effusion')
        page.locator('.cxr-workbench .lm-TabBar-tab', has_text='attack').first.click()
        attack = page.locator('.cxr-panel').nth(2)
        attack.locator('.js-plotly-plot .main-svg').first.wait_for(timeout=180_000)
        attack.locator('select').first.select_option('lower')
        page.wait_for_timeout(1500)
        attack.locator('.js-plotly-plot .main-svg').first.wait_for(timeout=180_000)
        busy = "[...document.querySelectorAll('.cxr-working')].some(sign => sign.textContent)"
        page.wait_for_function(f'!{busy}', timeout=180_000)
        page.mouse.move(5, 5)
        page.wait_for_timeout(1500)
        png = page.screenshot()
        browser.close()
    return png


def shrink(png):
    "A palette PNG of the same size; ValueError where it is larger than MOST."
    from PIL import Image
    out, picture = io.BytesIO(), Image.open(io.BytesIO(png)).convert('RGB')
    palette = picture.quantize(192, method=Image.Quantize.MAXCOVERAGE, kmeans=2, dither=Image.Dither.NONE)
    palette.save(out, 'PNG', optimize=True)
    if len(out.getvalue()) > MOST: raise ValueError(f'{len(out.getvalue())/1000:.0f} KB, at most {MOST/1000:.0f}')
    return out.getvalue()


def main(out=ROOT/'docs'/'static'/'workbench.png'):
    sys.path.insert(0, str(ROOT/'tests'/'browser'))
    import lab
    with tempfile.TemporaryDirectory(prefix='cxr_picture_') as folder:
        server, address = start_app(folder, lab.free_port())
        try: png = shrink(take_picture(address, lab.chromium(), lab.FLAGS))
        finally:
            server.terminate()
            server.wait(60)
    Path(out).write_bytes(png)
    print(f'{out}: {len(png)/1000:.0f} KB')


if __name__ == '__main__': main(*sys.argv[1:])
