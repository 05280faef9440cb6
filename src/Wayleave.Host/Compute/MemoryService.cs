using Wayleave.Core;
using Wayleave.Core.AddressSpaces;
using Wayleave.Devices.Gpu.Compute;
using Wayleave.Linux;
using Wayleave.Linux.UserFaults;

namespace Wayleave.Host.Compute;

/// <summary>
/// Gives clients memory that is no object: pages of the host, or their own process's, which the host watches. Members
/// are called by threads of requests and take the host lock for a moment.
/// </summary>
public sealed class MemoryService
{
    /// <summary>The most memory that a client gets at a time.</summary>
    public const long MemoryBytesMax = 1L << 32;

    private readonly WayleaveHost _owner;
    private readonly HostContext _host;
    private readonly Action<ComputeContext, string> _endClient;

    internal MemoryService(WayleaveHost owner, Action<ComputeContext, string> endClient) =>
        (_owner, _host, _endClient) = (owner, owner.Context, endClient);

    /// <summary>
    /// Gives a client memory of its own, of which no page is there before it is touched. What its GPU does when others
    /// need the pages is the host's choice (<see cref="Configuration.ComputeConfig.UserMemory"/>).
    /// </summary>
    /// <exception cref="WayleaveException">
    /// EINVAL: no size. EMFILE: too many buffers. ENOMEM: no addresses, or no pages to pin. EOPNOTSUPP: the GPU cannot
    /// fault.
    /// </exception>
    public async Task<ContextBuffer> AllocateAsync(ComputeContext context, ulong sizeBytes)
    {
        ArgumentNullException.ThrowIfNull(context);
        string operation = $"allocate {sizeBytes} bytes in {context}";
        if (sizeBytes is 0 or > MemoryBytesMax)
        {
            throw new WayleaveException(
                Errno.EINVAL, operation, $"1 to {ByteSize.ToText(MemoryBytesMax)} are allowed");
        }

        ContextMemory memory = MemoryOf(context, operation);

        (Errno errno, AddressRange range) = await memory.MapAsync(sizeBytes).ConfigureAwait(false);
        errno.ThrowIfFailed(operation);
        using (_host.Enter())
        {
            context.ThrowIfEnded(operation);
            errno = OpenLocked(context, context.Memory!.Space, range);
            if (errno == Errno.Success)
            {
                return context.Buffers[^1];
            }
        }

        await memory.UnmapAsync(range).ConfigureAwait(false);
        throw ErrnoMap.ToException(errno, operation);
    }

    /// <summary>
    /// Makes memory of the client's own process a part of its address space: its GPU and its peers reach it by the
    /// process's own addresses, and lose it when the process unmaps, moves or throws it away. From now on the host
    /// takes the events of the memory, and serves its faults with zeroes.
    /// </summary>
    /// <param name="context">Whose.</param>
    /// <param name="region">Owned by the context from here on, also after a failure.</param>
    /// <exception cref="WayleaveException">
    /// EEXIST: the client has other memory at those addresses. EMFILE: too many buffers. EOPNOTSUPP: the GPU cannot
    /// fault. (Pages that are the process's nobody can pin: a pinned region over them is refused, and so are jobs of a
    /// GPU that pins what it uses.)
    /// </exception>
    public async Task<ContextBuffer> TakeOverAsync(ComputeContext context, UserFaultRegion region)
    {
        ArgumentNullException.ThrowIfNull(context);
        ArgumentNullException.ThrowIfNull(region);
        string operation = $"take over {region.Addresses} of {context}";
        WatchedMemory? watched = null;
        try
        {
            ContextMemory memory = MemoryOf(context, operation);
            watched = new WatchedMemory(_owner, memory.Space, region);
            (Errno errno, AddressRange range) = await memory.MapAsync(watched.Request).ConfigureAwait(false);
            errno.ThrowIfFailed(operation, errno == Errno.EEXIST ? "the client has other memory there" : null);
            try
            {
                using (_host.Enter())
                {
                    context.ThrowIfEnded(operation);
                    OpenLocked(context, context.Memory!.Space, range).ThrowIfFailed(operation);
                    context.Watched.Add(watched);
                    watched.Start(reason => _endClient(context, reason));
                    return context.Buffers[^1];
                }
            }
            catch
            {
                await memory.UnmapAsync(range).ConfigureAwait(false);
                throw;
            }
        }
        catch
        {
            watched?.Dispose();
            region.Dispose();
            throw;
        }
    }

    /// <summary>
    /// As the other, of a client in a process of its own, by the numbers that it has the descriptors by.
    /// </summary>
    /// <param name="context">Of a client that came by the Unix socket.</param>
    /// <param name="addresses">Where that process has the memory.</param>
    /// <param name="numbers">As <see cref="UserFaultRegion.Numbers"/>.</param>
    /// <exception cref="WayleaveException">
    /// EOPNOTSUPP: the client is of another machine. EBADF, EINVAL: no such descriptors. EPERM: the client does not let
    /// the host copy them, or the memory may shrink. Or as the other says.
    /// </exception>
    public Task<ContextBuffer> TakeOverAsync(
        ComputeContext context, AddressRange addresses, (int Events, int Memory) numbers)
    {
        ArgumentNullException.ThrowIfNull(context);
        string operation = $"take over {addresses} of {context}";
        PidFd client = context.Client
            ?? throw new WayleaveException(Errno.EOPNOTSUPP, operation, "its process is not one of this machine");
        UserFaultRegion region;
        try
        {
            FileDescriptor events = client.CopyDescriptor(numbers.Events);
            try
            {
                FileDescriptor memory = client.CopyDescriptor(numbers.Memory);
                region = UserFaultRegion.TakeOver(events, memory, addresses);
            }
            catch
            {
                events.Dispose();
                throw;
            }
        }
        catch (LinuxException e)
        {
            throw ErrnoMap.ToException(e, operation);
        }

        return TakeOverAsync(context, region);
    }

    /// <summary>
    /// Makes a client's own memory, which it has by one GPU, a part of its address space on another: both mirror one
    /// address space, as the drivers of two GPUs do with a process's. A page that has migrated to the first comes home
    /// when the second wants it, or is reached in VRAM (<see cref="Configuration.ComputeConfig.PrivatePages"/>). The
    /// memory stays the first context's: when that closes the handle, or ends, the other finds nothing there any more.
    /// </summary>
    /// <param name="context">Whose GPU is to reach it.</param>
    /// <param name="owner">Whose memory it is; of the same client.</param>
    /// <param name="handle">By which that one has it.</param>
    /// <returns>Ends by its close in <paramref name="context"/>; no region of a NIC is over it there.</returns>
    /// <exception cref="WayleaveException">
    /// ENOENT: the owner has no such handle. EINVAL: it is an object, or the context is the owner. EPERM: the contexts
    /// are of two clients. EMFILE: too many buffers. EOPNOTSUPP: the GPU cannot fault.
    /// </exception>
    public ContextBuffer Share(ComputeContext context, ComputeContext owner, uint handle)
    {
        ArgumentNullException.ThrowIfNull(context);
        ArgumentNullException.ThrowIfNull(owner);
        string operation = $"share handle {handle} of {owner} with {context}";
        using (_host.Enter())
        {
            context.ThrowIfEnded(operation);
            owner.ThrowIfEnded(operation);
            if (context.Client?.ProcessId != owner.Client?.ProcessId)
            {
                throw new WayleaveException(Errno.EPERM, operation, "they are of two clients");
            }

            ContextBuffer shared = ContextRanges.BufferOf(owner, handle, operation);
            if (ReferenceEquals(context, owner) || shared.Memory is not { } range)
            {
                string reason = ReferenceEquals(context, owner)
                    ? "it has the memory already"
                    : "it is no memory of the client's own; objects are opened by name";
                throw new WayleaveException(Errno.EINVAL, operation, reason);
            }

            CheckCount(context, operation);
            OpenLocked(context, owner.Memory!.Space, range, isOwn: false).ThrowIfFailed(operation);
            return context.Buffers[^1];
        }
    }

    private ContextMemory MemoryOf(ComputeContext context, string operation)
    {
        using (_host.Enter())
        {
            context.ThrowIfEnded(operation);
            CheckCount(context, operation);
            return context.Memory ??= new ContextMemory(
                _host,
                context.Gpu.UserMemory,
                context.Process.Name,
                context.Gpu.Compute.PinnedBytesPerClientMax is { } max ? new PinLimits((ulong)max) : PinLimits.None);
        }
    }

    private static void CheckCount(ComputeContext context, string operation)
    {
        if (context.Buffers.Count >= ComputeContext.BuffersMax)
        {
            throw new WayleaveException(Errno.EMFILE, operation, "too many buffers are open", "close some");
        }
    }

    private static Errno OpenLocked(ComputeContext context, AddressSpace space, AddressRange range, bool isOwn = true)
    {
        const GpuAccess Access = GpuAccess.ReadWrite;
        Errno errno = context.Process.TryOpenUserPointer(
            space, range, Access, out uint handle, context.Gpu.Compute.UserMemory);
        ulong address = 0;
        if (errno == Errno.Success && context.Gpu.Compute.Mode == GpuCommandMode.Paged)
        {
            address = context.TakeAddress(range.LengthBytes);
            errno = context.Process.Memory.TryMap(address, handle, 0, range.LengthBytes, Access);
            if (errno != Errno.Success)
            {
                _ = context.Process.TryClose(handle); // it is not mapped, so that nothing can hold it
            }
        }

        if (errno == Errno.Success)
        {
            AddressRange? memory = isOwn ? range : null;
            context.Add(new ContextBuffer(handle, address, range.LengthBytes, Access, Target: null, memory));
            context.Process.Eviction.Refresh();
        }

        return errno;
    }
}
