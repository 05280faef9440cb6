using Wayleave.Core;
using Wayleave.Linux;
using Wayleave.Linux.Sharing;

namespace Wayleave.Client;

// Pages that came with the descriptor of a buffer. Whoever sent them may have sent others, so that nothing of what is
// mapped here is shown to anybody before the host has said which pages the buffer has. Until then no byte is touched,
// and pages are brought in by a call that is refused where an access would end the process.

/// <summary>A mapping that is made while the host is asked whether it may be.</summary>
internal sealed class EarlyMapping(FileDescriptor pages)
{
    private MappedMemory? _memory;
    private PagesIdentity _identity;
    private Errno _errno;

    /// <summary>Maps all of the file. Throws nothing: what fails is said by <see cref="Take"/>.</summary>
    public void Make()
    {
        try
        {
            if (!PagesIdentity.TryRead(pages, out _identity, out long sizeBytes) || sizeBytes is <= 0 or > int.MaxValue)
            {
                _errno = Errno.EINVAL;
                return;
            }

            _memory = MappedMemory.MapShared(pages, 0, (int)sizeBytes, "pages");
            _memory.BringIn(Math.Min((int)sizeBytes, Environment.SystemPageSize)); // if not now, then by its first use
        }
        catch (LinuxException e)
        {
            _errno = e.Errno;
        }
        catch (ObjectDisposedException)
        {
            _errno = Errno.EBADF; // closed by another thread
        }
    }

    /// <summary>The memory, which is the caller's from now on.</summary>
    /// <param name="operation">For the refusal.</param>
    /// <param name="expected">What the host says.</param>
    /// <param name="sizeBytes">Of the buffer.</param>
    /// <param name="checks">Whether it is looked at at all.</param>
    /// <exception cref="BrokerException">
    /// EINVAL: the pages are not the buffer's. ENOMEM, EACCES: why they cannot be mapped.
    /// </exception>
    public MappedMemory Take(string operation, PagesIdentity expected, ulong sizeBytes, bool checks)
    {
        bool isRight = (_identity == expected || !checks)
            && (_memory is null || sizeBytes <= (ulong)_memory.Memory.Length);
        if (isRight && Interlocked.Exchange(ref _memory, null) is { } memory)
        {
            return memory;
        }

        Drop();
        throw isRight
            ? new BrokerException(operation, _errno, "the pages that came with the buffer cannot be mapped")
            : new BrokerException(operation, Errno.EINVAL, "the pages that came with the buffer are not its own");
    }

    /// <summary>Unmaps what was not taken.</summary>
    public void Drop() => ((IDisposable?)Interlocked.Exchange(ref _memory, null))?.Dispose();
}
