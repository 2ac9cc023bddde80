const by = document.getElementById("by"), cards = document.getElementById("cards");
function sort() {
  const score = card => Number(card.dataset.scores.split(" ")[by.value]);
  [...cards.children].sort((a, b) => score(a) - score(b)).forEach(card => cards.append(card));
}
by?.addEventListener("change", sort);
if (by) sort();
