using Wayleave.Core;
using Wayleave.Linux.Interop;

namespace Wayleave.Linux.Sharing;

/// <summary>Descriptors that one thread watches together: ppoll(2). Not for several threads.</summary>
/// <typeparam name="T">What a descriptor stands for.</typeparam>
public sealed unsafe class DescriptorSet<T>
{
    private readonly List<(FileDescriptor Descriptor, short Events, T Meaning)> _entries = [];
    private pollfd[] _polled = [];

    public int Count => _entries.Count;

    /// <summary>Watches one more; who adds it keeps it open until it is removed.</summary>
    /// <param name="descriptor">Of any kind.</param>
    /// <param name="input">Whether input counts; a hang-up and an error always do.</param>
    /// <param name="meaning">What <see cref="Wait"/> returns.</param>
    public void Add(FileDescriptor descriptor, bool input, T meaning) =>
        _entries.Add((descriptor, input ? poll.POLLIN : (short)0, meaning));

    public void RemoveAll(Predicate<T> match) => _entries.RemoveAll(e => match(e.Meaning));

    /// <summary>Waits until something can be said of one of them.</summary>
    /// <param name="timeout">Relative, or <see cref="Timeout.InfiniteTimeSpan"/>.</param>
    /// <param name="ready">Gets the meaning of those, in the order they were added.</param>
    public void Wait(TimeSpan timeout, List<T> ready)
    {
        ArgumentNullException.ThrowIfNull(ready);
        ready.Clear();
        if (_polled.Length < _entries.Count)
        {
            _polled = new pollfd[_entries.Count * 2];
        }

        // One that was closed meanwhile is passed over: poll(2) takes a negative number for that.
        List<FileDescriptor> held = [];
        try
        {
            for (int i = 0; i < _entries.Count; i++)
            {
                _polled[i] = new pollfd { fd = Hold(_entries[i].Descriptor, held), events = _entries[i].Events };
            }

            bool isFinite = KernelTime.TryConvert(timeout, out timespec time);
            fixed (pollfd* polled = _polled)
            {
                if (Libc.ppoll(polled, (nuint)_entries.Count, isFinite ? &time : null, null) < 0)
                {
                    Errno errno = LinuxException.LastErrno();
                    if (errno != Errno.EINTR)
                    {
                        throw new LinuxException("ppoll", $"{_entries.Count} descriptors", errno);
                    }

                    return;
                }
            }

            for (int i = 0; i < _entries.Count; i++)
            {
                if (_polled[i].revents != 0)
                {
                    ready.Add(_entries[i].Meaning);
                }
            }
        }
        finally
        {
            held.ForEach(d => d.DangerousRelease());
        }
    }

    private static int Hold(FileDescriptor descriptor, List<FileDescriptor> held)
    {
        try
        {
            bool added = false;
            descriptor.DangerousAddRef(ref added);
            held.Add(descriptor);
            return (int)descriptor.DangerousGetHandle();
        }
        catch (ObjectDisposedException)
        {
            return -1;
        }
    }
}
