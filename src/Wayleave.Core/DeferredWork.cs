using System.Runtime.ExceptionServices;
using Wayleave.Core.Checking;
using Wayleave.Core.Fences;

namespace Wayleave.Core;

// Of the thread, not of the host: only who holds the host lock adds to it, and a list in the host would be written by
// one processor after the other, each of which fetches its cache lines from the one before.

/// <summary>
/// What runs when a hold of a host lock is over, in the order in which it was added. Used by one thread; a thread that
/// holds the locks of several hosts has one for each.
/// </summary>
internal sealed class DeferredWork
{
    private const int KeptMax = 256; // more is given back when it has run

    [ThreadStatic]
    private static DeferredWork? s_collecting; // for the holds of this thread

    [ThreadStatic]
    private static DeferredWork? s_spare; // emptied, for the next hold

    private Entry[] _entries = new Entry[4];
    private int _count;
    private HostContext? _host;
    private DeferredWork? _next; // of those that collect, or of the spare ones

    /// <summary>That of the calling thread's hold. Host lock held by the caller.</summary>
    public static DeferredWork For(HostContext host)
    {
        for (DeferredWork? work = s_collecting; work is not null; work = work._next)
        {
            if (ReferenceEquals(work._host, host))
            {
                return work;
            }
        }

        DeferredWork taken = s_spare ?? new DeferredWork();
        s_spare = taken._next;
        (taken._host, taken._next) = (host, s_collecting);
        s_collecting = taken;
        return taken;
    }

    /// <summary>
    /// Takes what the hold has deferred out, so that what runs can hold the lock again; null for nothing. To be run
    /// once the lock is released. Host lock held by the caller.
    /// </summary>
    public static DeferredWork? Take(HostContext host)
    {
        DeferredWork? before = null;
        for (DeferredWork? work = s_collecting; work is not null; (before, work) = (work, work._next))
        {
            if (!ReferenceEquals(work._host, host))
            {
                continue;
            }

            if (before is null)
            {
                s_collecting = work._next;
            }
            else
            {
                before._next = work._next;
            }

            return work;
        }

        return null;
    }

    public void Add(Action action) => Add(new Entry(action, null));

    public void Add(Action<Fence> callback, Fence fence) => Add(new Entry(callback, fence));

    /// <summary>
    /// Runs all of it, even if some of it throws: it belongs to different waiters, and one that fails must not leave
    /// the others waiting for ever. Lock not held.
    /// </summary>
    public void Run()
    {
        using SignalingSection suspended = SignalingSection.Suspend(); // others' callbacks, on the thread that was here
        List<Exception>? failures = null;
        for (int i = 0; i < _count; i++)
        {
            try
            {
                _entries[i].Run();
            }
            catch (Exception e)
            {
                (failures ??= []).Add(e);
            }
        }

        if (_entries.Length > KeptMax)
        {
            _entries = new Entry[4];
        }

        Array.Clear(_entries, 0, Math.Min(_count, _entries.Length));
        (_count, _host, _next) = (0, null, s_spare);
        s_spare = this;
        if (failures is [Exception only])
        {
            ExceptionDispatchInfo.Throw(only);
        }

        if (failures is not null)
        {
            throw new AggregateException("callbacks that ran after the host lock failed", failures);
        }
    }

    private void Add(Entry entry)
    {
        if (_count == _entries.Length)
        {
            Array.Resize(ref _entries, 2 * _count);
        }

        _entries[_count++] = entry;
    }

    private readonly struct Entry(Delegate work, Fence? fence)
    {
        public void Run()
        {
            if (fence is null)
            {
                ((Action)work)();
            }
            else
            {
                ((Action<Fence>)work)(fence);
            }
        }
    }
}
