// The ranking as data: what the page proposed, what the labeler did, and the ranks that follow. 1 is best.

/** Ranks from ratings: the best rated is 1, equal ratings are tied, and a tie leaves room to be split (1, 2, 2, 4). */
export function proposed(likerts) {
  return likerts.map((own) => 1 + likerts.filter((other) => other > own).length);
}

export class Ranking {
  constructor(count) {
    this.count = count;
    this.ranks = Array(count).fill(null);
    this.log = [];
  }

  /** Whether the labeler moved anything. */
  get touched() {
    return this.log.some(([what]) => what === "rank");
  }

  /** Begin with these ranks; they are no choice of the labeler's. */
  start(ranks) {
    this.ranks = [...ranks];
    this.log = ranks.map((rank, place) => ["start", place, rank]);
  }

  /** The labeler gives a response a rank, or says that the proposed one is right; false where they did so already. */
  set(place, rank) {
    const latest = this.log.findLast(([, where]) => where === place);
    if (this.ranks[place] === rank && latest?.[0] === "rank") return false;
    this.ranks[place] = rank;
    this.log.push(["rank", place, rank]);
    return true;
  }

  /** Take up a draft; anything in it that is not a ranking of this many responses is left. */
  restore(log) {
    const sound = (s) => Array.isArray(s) && ["start", "rank"].includes(s[0]) && this.fits(s[1], 0) && this.fits(s[2], 1);
    this.log = Array.isArray(log) ? log.filter(sound) : [];
    this.ranks = Array(this.count).fill(null);
    for (const [, place, rank] of this.log) this.ranks[place] = rank;
    if (this.ranks.includes(null)) [this.ranks, this.log] = [Array(this.count).fill(null), []];
  }

  fits(value, low) {
    return Number.isInteger(value) && value >= low && value < low + this.count;
  }

  /** The place of the best response; of tied ones the first shown. */
  best() {
    return this.ranks.indexOf(Math.min(...this.ranks));
  }

  /** The order in words: "C, then A = B". */
  words(names) {
    return this.groups().map((group) => group.map((place) => names[place]).join(" = ")).join(", then ");
  }

  /** Places from best to worst; tied ones together. */
  groups() {
    const found = new Map();
    for (const [place, rank] of this.ranks.entries()) found.set(rank, [...(found.get(rank) ?? []), place]);
    return [...found.keys()].sort((a, b) => a - b).map((rank) => found.get(rank));
  }
}
