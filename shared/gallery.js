// The results page reads well without this: it adds the search, opens what a link points into, finds the way back, and marks where the reader is.
(() => {
  const log = document.getElementById("log");
  const form = log.querySelector("form"), field = form.querySelector("input"), count = form.querySelector("output");
  const lines = (text) => text.toLowerCase().replace(/\s+/g, " ");
  const entries = [...log.querySelectorAll("li")].map((entry) => {
    const experiment = document.getElementById(entry.querySelector("a").hash.slice(1));
    return { entry, text: lines(`${entry.textContent} ${experiment.textContent}`) };
  });
  const search = () => {
    const words = lines(field.value).split(" ").filter(Boolean);
    let shown = 0;
    for (const { entry, text } of entries) {
      entry.hidden = !words.every((word) => text.includes(word));
      shown += !entry.hidden;
    }
    count.value = words.length ? `${shown} of ${entries.length} experiments` : `${entries.length} experiments`;
  };
  form.hidden = false;
  form.addEventListener("submit", (event) => event.preventDefault());
  field.addEventListener("input", search);
  search();

  // a card that opens moves what is below it: the way back leads to the line that was followed, wherever that is by then
  document.querySelectorAll(".log li").forEach((entry, place) => {
    entry.id = `entry-${place}`;
    entry.querySelector("a").addEventListener("click", () => history.replaceState(null, "", `#${entry.id}`));
  });

  const open = () => {
    const target = document.getElementById(decodeURIComponent(location.hash.slice(1)));
    for (let around = target?.closest("details"); around; around = around.parentElement.closest("details")) around.open = true;
    target?.scrollIntoView();
  };
  addEventListener("hashchange", open);
  if (location.hash) open();

  const bar = document.querySelector("nav ul");
  const links = new Map([...bar.querySelectorAll("a")].map((link) => [link.hash.slice(1), link]));
  const seen = new IntersectionObserver((changes) => {
    for (const { target, isIntersecting } of changes) {
      const link = links.get(target.id);
      if (!isIntersecting) link.removeAttribute("aria-current");
      else {
        link.setAttribute("aria-current", "true");
        bar.scrollTo({ left: link.offsetLeft - bar.clientWidth / 3 });
      }
    }
  }, { rootMargin: "-25% 0px -74% 0px" });
  for (const name of links.keys()) seen.observe(document.getElementById(name));
})();
