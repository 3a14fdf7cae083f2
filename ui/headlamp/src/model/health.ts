// Is it well? The same rules as ui/model/src/health.rs, checked by the same vectors.

/** Three heartbeats, in milliseconds. */
const STALE_AFTER = 180_000;

/** Verdicts, from good to bad. */
export const VERDICTS = ['Healthy', 'Degraded', 'Unknown', 'Stale', 'Unhealthy'] as const;
export type Verdict = (typeof VERDICTS)[number];

/** A verdict, and why; the reason is empty where all is well. */
export interface Health {
  verdict: Verdict;
  reason: string;
}

/** A condition as it is shown. */
export interface Condition {
  type: string;
  status: string;
  reason: string;
  message: string;
}

/** How bad a verdict is: a larger number is worse. */
export function badness(verdict: Verdict): number {
  return VERDICTS.indexOf(verdict);
}

/** What is wrong, as far as the condition says. */
export function cause({ type, status, reason, message }: Condition): string {
  if (reason && message) return `${reason}: ${message}`;
  return reason || message || `${type} is ${status}`;
}

/**
 * The verdict on a component that has the conditions `all`, of which the one called `main` speaks for it as a whole.
 * `heartbeat` is RFC 3339, `now` in milliseconds since 1970.
 */
export function judge(
  main: string,
  all: Condition[],
  heartbeat: string | null,
  now: number
): Health {
  const own = all.find(one => one.type === main);
  if (!own || !heartbeat) return { verdict: 'Unknown', reason: 'no heartbeat yet' };
  const age = now - Date.parse(heartbeat);
  if (age > STALE_AFTER) {
    const last = own.status === 'True' ? '' : `; last: ${cause(own)}`;
    return { verdict: 'Stale', reason: `no heartbeat for ${words(age)}${last}` };
  }
  // It would pass for fresh for as long as its clock is ahead.
  if (age < -STALE_AFTER) {
    return {
      verdict: 'Unknown',
      reason: `its heartbeat is ${words(-age)} in the future: clocks differ`,
    };
  }
  if (own.status === 'False') return { verdict: 'Unhealthy', reason: cause(own) };
  if (own.status !== 'True') return { verdict: 'Unknown', reason: cause(own) };
  const other = all.find(one => one.status !== 'True');
  if (!other) return { verdict: 'Healthy', reason: '' };
  const text = cause(other);
  return {
    verdict: 'Degraded',
    reason: text.startsWith(other.type) ? text : `${other.type}: ${text}`,
  };
}

/** A time in milliseconds, in its largest whole unit. */
export function words(time: number): string {
  const seconds = Math.trunc(time / 1000);
  if (seconds < 120) return `${seconds} s`;
  if (seconds < 7_200) return `${Math.trunc(seconds / 60)} min`;
  if (seconds < 172_800) return `${Math.trunc(seconds / 3_600)} h`;
  return `${Math.trunc(seconds / 86_400)} d`;
}
