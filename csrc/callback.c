/* callback.c: calls into Python, and handlers that ask for the end of the run. */
#include "machine.h"

void machine_ask_stop(machine *m)
{
    m->stop_asked = true;
}

int machine_take_stop(machine *m)
{
    bool asked = m->stop_asked;
    m->stop_asked = false;
    return asked;
}

int machine_callback(struct machine *m, int kind, int index, u32 arg)
{
    int result = m->config.callback(m->config.tag, kind, index, arg);
    return m->stop_asked ? CALLBACK_RAISED : result;
}
