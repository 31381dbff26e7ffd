#include "mc146818.h"

#define SECOND 1000000000ull    /* ns */
#define UPDATE_NS 244000ull     /* UIP is up for that long before a second ends */
#define MINUTE 60
#define HOUR 3600
#define DAY 86400

enum { SECONDS, SECONDS_ALARM, MINUTES, MINUTES_ALARM, HOURS, HOURS_ALARM, WEEKDAY, MONTHDAY, MONTH, YEAR, A, B, C, D };
#define CENTURY 0x32            /* where PC firmware keeps it */

#define A_UIP 0x80u
#define B_SET 0x80u
#define B_PIE 0x40u
#define B_AIE 0x20u
#define B_UIE 0x10u
#define B_BINARY 0x04u
#define B_24 0x02u
#define C_IRQF 0x80u
#define D_VRT 0x80u
#define ALARM_ANY 0xC0u         /* an alarm byte that fits always */
#define PM 0x80u

/* --- civil time ------------------------------------------------------------------------------------------- */

/* Days since 1970 of a proleptic Gregorian date: years begin in March, so that leap days come last. */
static s64 days_of(s64 year, unsigned month, unsigned day)
{
    year -= month <= 2;
    s64 era = (year >= 0 ? year : year - 399) / 400;
    unsigned in_era = (unsigned)(year - era * 400), shifted = (month + 9) % 12;
    unsigned in_year = (153 * shifted + 2) / 5 + day - 1;
    return era * 146097 + (s64)(in_era * 365 + in_era / 4 - in_era / 100 + in_year) - 719468;
}

static void date_of(s64 days, s64 *year, unsigned *month, unsigned *day)
{
    days += 719468;
    s64 era = (days >= 0 ? days : days - 146096) / 146097;
    unsigned of_era = (unsigned)(days - era * 146097);
    unsigned in_era = (of_era - of_era / 1460 + of_era / 36524 - of_era / 146096) / 365;
    unsigned of_year = of_era - (365 * in_era + in_era / 4 - in_era / 100);
    unsigned shifted = (5 * of_year + 2) / 153;
    *day = of_year - (153 * shifted + 2) / 5 + 1;
    *month = shifted < 10 ? shifted + 3 : shifted - 9;
    *year = (s64)in_era + era * 400 + (*month <= 2);
}

/* --- registers ------------------------------------------------------------------------------------------- */

static u8 encode(const struct mc146818 *r, unsigned value)
{
    return (u8)(r->ram[B] & B_BINARY ? value : value / 10 << 4 | value % 10);
}

static unsigned decode(const struct mc146818 *r, u8 value)
{
    return r->ram[B] & B_BINARY ? value : (value >> 4) * 10u + (value & 15);
}

static u8 encode_hour(const struct mc146818 *r, unsigned hour)
{
    if (r->ram[B] & B_24)
        return encode(r, hour);
    return encode(r, (hour + 11) % 12 + 1) | (hour >= 12 ? PM : 0);
}

static unsigned decode_hour(const struct mc146818 *r, u8 value)
{
    if (r->ram[B] & B_24)
        return decode(r, value);
    return decode(r, value & 0x7F) % 12 + (value & PM ? 12 : 0);
}

static s64 seconds_at(const struct mc146818 *r, u64 now)
{
    return r->ram[B] & B_SET ? r->base : r->base + (s64)((now - r->since) / SECOND);
}

/* Put the time into the registers. */
static void show(struct mc146818 *r, u64 now)
{
    if (r->ram[B] & B_SET)
        return;
    s64 t = seconds_at(r, now), days = (t >= 0 ? t : t - (DAY - 1)) / DAY, year;
    unsigned of_day = (unsigned)(t - days * DAY), month, day;
    date_of(days, &year, &month, &day);
    r->ram[SECONDS] = encode(r, of_day % MINUTE);
    r->ram[MINUTES] = encode(r, of_day / MINUTE % MINUTE);
    r->ram[HOURS] = encode_hour(r, of_day / HOUR);
    r->ram[WEEKDAY] = encode(r, (unsigned)((days % 7 + 11) % 7 + 1));   /* 1970 began on a Thursday; Sunday is 1 */
    r->ram[MONTHDAY] = encode(r, day);
    r->ram[MONTH] = encode(r, month);
    r->ram[YEAR] = encode(r, (unsigned)(year % 100));
    r->ram[CENTURY] = (u8)(year / 1000 % 10 << 4 | year / 100 % 10);
}

/* Take the time from the registers. */
static void set(struct mc146818 *r, u64 now)
{
    unsigned century = (r->ram[CENTURY] >> 4) * 10u + (r->ram[CENTURY] & 15);
    s64 year = (s64)century * 100 + decode(r, r->ram[YEAR]);
    unsigned month = decode(r, r->ram[MONTH]);
    s64 days = days_of(year, month - 1 < 12 ? month : 1, decode(r, r->ram[MONTHDAY]));
    r->base = days * DAY + (s64)decode_hour(r, r->ram[HOURS]) * HOUR + decode(r, r->ram[MINUTES]) * MINUTE +
              decode(r, r->ram[SECONDS]);
    r->since = r->looked = now;
}

/* Cycles of the 32,768 Hz clock in a period of the periodic interrupt, as a power of two; -1: it is off. */
static int period_shift(const struct mc146818 *r)
{
    int rate = r->ram[A] & 15;
    return rate == 0 ? -1 : rate <= 2 ? rate + 6 : rate - 1;    /* rates 1 and 2 are those of 8 and 9 */
}

/* Periods of the periodic interrupt until now; 0: it is off. */
static u64 ticks(const struct mc146818 *r, u64 now)
{
    int shift = period_shift(r);
    return shift < 0 ? 0 : (u64)((unsigned __int128)now * 32768 / SECOND >> shift);
}

static bool alarm_fits(const struct mc146818 *r, s64 t)
{
    unsigned of_day = (unsigned)((t % DAY + DAY) % DAY);
    const u8 *ram = r->ram;
    return ((ram[SECONDS_ALARM] & ALARM_ANY) == ALARM_ANY || decode(r, ram[SECONDS_ALARM]) == of_day % MINUTE) &&
           ((ram[MINUTES_ALARM] & ALARM_ANY) == ALARM_ANY || decode(r, ram[MINUTES_ALARM]) == of_day / MINUTE % MINUTE) &&
           ((ram[HOURS_ALARM] & ALARM_ANY) == ALARM_ANY || decode_hour(r, ram[HOURS_ALARM]) == of_day / HOUR);
}

/* Does the alarm fit one of the seconds after `from` up to `to`? */
static bool alarm_between(const struct mc146818 *r, s64 from, s64 to)
{
    if (to - from > DAY)
        from = to - DAY;        /* it fits every day or never */
    for (s64 t = from + 1; t <= to; t++)
        if (alarm_fits(r, t))
            return true;
    return false;
}

/* Bring the flags of register C up to date. */
static void look(struct mc146818 *r, u64 now)
{
    if (now <= r->looked)
        return;
    s64 before = seconds_at(r, r->looked), after = seconds_at(r, now);
    if (ticks(r, now) != ticks(r, r->looked))
        r->ram[C] |= B_PIE;
    if (after != before)
        r->ram[C] |= B_UIE;
    if (alarm_between(r, before, after))
        r->ram[C] |= B_AIE;
    r->looked = now;
}

bool rtc_interrupt(struct mc146818 *r, u64 now)
{
    look(r, now);
    return r->ram[C] & r->ram[B] & (B_PIE | B_AIE | B_UIE);
}

u64 rtc_next(const struct mc146818 *r, u64 now)
{
    u64 next = RTC_NEVER;
    if (r->ram[B] & (B_AIE | B_UIE) && !(r->ram[B] & B_SET))
        next = r->since + ((now - r->since) / SECOND + 1) * SECOND;
    if (r->ram[B] & B_PIE && period_shift(r) >= 0) {
        unsigned __int128 cycles = (unsigned __int128)(ticks(r, now) + 1) << period_shift(r);
        u64 tick = (u64)((cycles * SECOND + 32767) / 32768);
        next = tick < next ? tick : next;
    }
    return next;
}

void rtc_init(struct mc146818 *r, s64 seconds)
{
    *r = (struct mc146818){.base = seconds};
    r->ram[A] = 0x26;           /* 32,768 Hz, periodic rate 1,024 Hz */
    r->ram[B] = B_24;
    r->ram[D] = D_VRT;
}

u8 rtc_read(struct mc146818 *r, unsigned index, u64 now)
{
    if (index < A || index == CENTURY)
        show(r, now);
    if (index == A) {
        bool updating = !(r->ram[B] & B_SET) && (now - r->since) % SECOND >= SECOND - UPDATE_NS;
        return (u8)(r->ram[A] | (updating ? A_UIP : 0));
    }
    if (index == C) {
        bool asks = rtc_interrupt(r, now);
        u8 flags = (u8)(r->ram[C] | (asks ? C_IRQF : 0));
        r->ram[C] = 0;
        return flags;
    }
    return r->ram[index];
}

static bool is_time(unsigned index)
{
    return index == SECONDS || index == MINUTES || index == HOURS || (index >= WEEKDAY && index <= YEAR) ||
           index == CENTURY;
}

void rtc_write(struct mc146818 *r, unsigned index, u8 value, u64 now)
{
    look(r, now);
    if (index == C || index == D)
        return;
    if (index == B) {
        bool was_set = r->ram[B] & B_SET;
        if (!was_set)
            show(r, now);
        if (!was_set && value & B_SET)
            r->base = seconds_at(r, now);
        r->ram[B] = value;
        if (was_set && !(value & B_SET))
            set(r, now);
        return;
    }
    if (is_time(index))
        show(r, now);
    r->ram[index] = index == A ? value & (u8)~A_UIP : value;
    if (is_time(index) && !(r->ram[B] & B_SET))
        set(r, now);
}
