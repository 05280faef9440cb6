using System.Numerics;
using Wayleave.Core.Buffers;
using Wayleave.Core.PeerMemory;

namespace Wayleave.Core.Topology;

/// <summary>
/// The addresses of one host: which bytes answer at which address, for whom, by which way. Trees, windows and mappings
/// are changed with the host lock held; engines decode against immutable tables without a lock, so that an access never
/// sees a half-changed map.
/// </summary>
/// <remarks>
/// A window has a physical address. A device never uses it directly: <see cref="TryMap"/> makes the addresses that the
/// device puts on the bus, which an IOMMU or a bridge with an offset makes different ones.
/// </remarks>
public sealed class PciFabric
{
    /// <summary>
    /// Windows of system memory are placed on this boundary, so that a carry out of a window's size never reaches the
    /// next one.
    /// </summary>
    public const ulong WindowAlignmentBytes = 1UL << 32;

    private const ulong FirstBarAddress = 1UL << 45; // above all system memory, and above every IOVA

    private readonly List<PciFunction> _clients = [];
    private readonly List<PathTraffic> _traffic = [];
    private readonly Dictionary<PciFunction, IommuDomain> _domains = [];
    private MemoryWindow[] _windows = [];
    private SpareSwitch? _spare;
    private ulong _nextMemory = WindowAlignmentBytes;
    private ulong _nextBar = FirstBarAddress;

    /// <param name="topology">
    /// The trees; null for one root port with one switch, below which every function is plugged that has no place of
    /// its own.
    /// </param>
    public PciFabric(PciTopology? topology = null)
    {
        Topology = topology ?? new PciTopology();
        Processor = new PciFunction(new PciAddress(0, 0, 0, 0), "cpu");
        foreach (PciBar bar in Topology.Functions.SelectMany(f => f.Bars).OfType<PciBar>())
        {
            _nextBar = Math.Max(_nextBar, bar.Range.Start.Value + bar.Range.LengthBytes);
        }

        Rebuild();
    }

    public PciTopology Topology { get; }

    /// <summary>
    /// Who the processor is when it reaches memory: in no tree, at physical addresses, through no IOMMU.
    /// </summary>
    public PciFunction Processor { get; }

    /// <summary>Every path that was ever used, with its bytes.</summary>
    public IReadOnlyList<PathTraffic> Traffic => _traffic;

    /// <summary>
    /// Lets a function reach memory. One that is in no tree yet is put below a port of the switch that the fabric keeps
    /// for such functions. The second call changes nothing.
    /// </summary>
    /// <exception cref="ArgumentException">Its address or name is taken.</exception>
    public void Plug(PciFunction function)
    {
        ArgumentNullException.ThrowIfNull(function);
        if (_clients.Contains(function) || ReferenceEquals(function, Processor))
        {
            return;
        }

        if (function.Root is null)
        {
            Topology.Add(function, (_spare ??= new SpareSwitch(Topology)).AddPort());
        }
        else if (!Topology.Contains(function))
        {
            throw new ArgumentException($"{function} is in another topology");
        }

        _clients.Add(function);
        if (function.Root!.Iommu == IommuMode.Strict)
        {
            _domains.Add(function, new IommuDomain());
        }

        Rebuild();
    }

    /// <summary>
    /// Pulls a function out with everything below it: its requests and those to its BARs abort from now on. Whoever
    /// used its memory has been revoked before, or sees aborts.
    /// </summary>
    public void Unplug(PciFunction function)
    {
        ArgumentNullException.ThrowIfNull(function);
        Topology.Remove(function);
        foreach (PciFunction client in _clients.ToArray())
        {
            if (client.Root is null)
            {
                client.Decode = null;
                client.PeerDevice?.Release();
                _clients.Remove(client);
                _domains.Remove(client);
            }
        }

        _windows = [.. _windows.Where(w => w.Owner is null || w.Owner.Root is not null)];
        Rebuild();
    }

    /// <summary>
    /// Writes a port's ACS control register. Requests go the new way at once; map types that were calculated stay.
    /// </summary>
    public void SetAcs(PciFunction function, AcsControl? control)
    {
        PciTopology.SetAcs(function, control);
        Rebuild();
    }

    /// <summary>
    /// Gives a function a BAR of physical addresses, aligned to its size. Windows are put into it by
    /// <see cref="AddWindow(Memory{byte}, PciBar, ulong)"/>; the rest of it answers nothing.
    /// </summary>
    /// <param name="function">Plugged in by this if it is not.</param>
    /// <param name="index">0 to 5, not in use.</param>
    /// <param name="kind">What answers there.</param>
    /// <param name="sizeBytes">A power of two.</param>
    public PciBar AddBar(PciFunction function, int index, PciBarKind kind, ulong sizeBytes)
    {
        ArgumentNullException.ThrowIfNull(function);
        ArgumentOutOfRangeException.ThrowIfGreaterThanOrEqual((uint)index, (uint)PciFunction.BarCountMax);
        if (!ulong.IsPow2(sizeBytes))
        {
            throw new ArgumentException($"{sizeBytes} is not a power of two", nameof(sizeBytes));
        }

        if (function.Bars[index] is not null)
        {
            throw new ArgumentException($"{function} has a BAR {index} already");
        }

        Plug(function);
        ulong alignment = Math.Max(sizeBytes, WindowAlignmentBytes);
        ulong start = (_nextBar + alignment - 1) & ~(alignment - 1);
        _nextBar = start + alignment;
        PciBar bar = new(function, index, kind, new DeviceRange(new DeviceAddress(start), sizeBytes));
        function.SetBar(bar);
        return bar;
    }

    /// <summary>
    /// Gives <paramref name="memory"/> an address range. The fabric does not own the memory: the caller keeps it alive
    /// until after <see cref="RemoveWindow"/>. Host lock held by the caller.
    /// </summary>
    /// <param name="memory">At most 2 GiB less one byte.</param>
    /// <param name="owner">
    /// The function that gets the next free BAR for it and offers it to peers, or null for system memory.
    /// </param>
    public MemoryWindow AddWindow(Memory<byte> memory, PciFunction? owner)
    {
        if (owner is not null)
        {
            ulong size = Math.Max(IommuDomain.PageBytes, BitOperations.RoundUpToPowerOf2((ulong)memory.Length));
            return AddWindow(memory, AddBar(owner, owner.NextBarIndex(), PciBarKind.Memory, size), 0);
        }

        MemoryWindow window = new(TakeSystemRange((ulong)memory.Length), memory, owner);
        Add(window);
        return window;
    }

    /// <summary>
    /// Gives <paramref name="memory"/> an address range for bytes on their way from one device to another. As system
    /// memory, but every access to it is counted as <see cref="PeerRoute.Staging"/>.
    /// </summary>
    /// <param name="memory">As for <see cref="AddWindow(Memory{byte}, PciFunction?)"/>.</param>
    public MemoryWindow AddStagingWindow(Memory<byte> memory)
    {
        MemoryWindow window = new(TakeSystemRange((ulong)memory.Length), memory, owner: null) { IsStaging = true };
        Add(window);
        return window;
    }

    /// <summary>
    /// Puts <paramref name="memory"/> behind a part of a memory BAR and offers the BAR to peers. The caller keeps the
    /// memory alive until after <see cref="RemoveWindow"/>.
    /// </summary>
    /// <exception cref="ArgumentException">It does not fit, overlaps, or the BAR is no memory.</exception>
    public MemoryWindow AddWindow(Memory<byte> memory, PciBar bar, ulong offset)
    {
        ArgumentNullException.ThrowIfNull(bar);
        DeviceRange range = new(bar.Range.Start + offset, (ulong)memory.Length);
        if (bar.Kind != PciBarKind.Memory || !bar.Range.Contains(range.Start, range.LengthBytes)
            || _windows.Any(w => w.Range.Overlaps(range)))
        {
            throw new ArgumentException($"{range} is not a free part of memory in {bar}");
        }

        PeerDevice.TryInitialize(Topology, bar.Owner, out _); // refused, its memory is nobody else's to reach
        MemoryWindow window = new(range, memory, bar.Owner);
        Add(window);
        return window;
    }

    /// <summary>
    /// Gives <paramref name="memory"/> addresses at which its owner alone reaches it: device memory beyond its BAR. As
    /// <see cref="AddWindow(Memory{byte}, PciFunction)"/> otherwise.
    /// </summary>
    /// <param name="memory">At most 2 GiB less one byte.</param>
    /// <param name="owner">Plugged in by this if it is not.</param>
    public MemoryWindow AddPrivateWindow(Memory<byte> memory, PciFunction owner)
    {
        ArgumentNullException.ThrowIfNull(owner);
        Plug(owner);
        MemoryWindow window = new(TakeSystemRange((ulong)memory.Length), memory, owner) { IsPrivate = true };
        Add(window);
        return window;
    }

    /// <summary>
    /// Writes the memory bit of a function's command register (<c>PCI_COMMAND_MEMORY</c>): without it requests to its
    /// BARs abort. Its own requests, and mappings that exist, are not touched: whoever uses its memory has been revoked
    /// before. Host lock held by the caller.
    /// </summary>
    public void SetMemoryDecoding(PciFunction function, bool isEnabled)
    {
        ArgumentNullException.ThrowIfNull(function);
        if (function.DecodesMemory != isEnabled)
        {
            function.DecodesMemory = isEnabled;
            Rebuild();
        }
    }

    /// <summary>
    /// Takes a window out of the map: later accesses abort as a hot-unplugged BAR does. The caller has closed and
    /// drained every gate of the memory first. Its addresses are never given out again. Host lock held by the caller.
    /// </summary>
    public void RemoveWindow(MemoryWindow window)
    {
        _windows = [.. _windows.Where(w => !ReferenceEquals(w, window))];
        Rebuild();
    }

    /// <summary>
    /// Makes the addresses at which a device reaches physical memory (<c>dma_map_sgtable</c> of a list that may hold
    /// peer memory): bus addresses where the rules allow the short way, one block of I/O addresses for the rest when an
    /// IOMMU translates, physical addresses otherwise.
    /// </summary>
    /// <param name="client">The device; plugged in.</param>
    /// <param name="physical">Physical ranges of windows of this fabric.</param>
    /// <param name="addresses">
    /// Entry by entry where the bytes are for this device; give it back by <see cref="Unmap"/>. The same object when
    /// nothing needs a translation, and the object of the last map where only the bus has other addresses: a device
    /// that maps again what has not moved makes no list.
    /// </param>
    /// <returns>
    /// <see cref="Errno.EREMOTEIO"/> when an entry cannot be reached: nothing is mapped then, and no retry helps.
    /// <see cref="Errno.ENODEV"/> for a device that is not plugged in, <see cref="Errno.EFAULT"/> for a range that is
    /// no memory, <see cref="Errno.ENOMEM"/> when the I/O address space is full.
    /// </returns>
    public Errno TryMap(PciFunction client, DmaAddressList physical, out DmaAddressList? addresses)
    {
        ArgumentNullException.ThrowIfNull(client);
        ArgumentNullException.ThrowIfNull(physical);
        addresses = null;
        if (client.Root is not HostBridge root)
        {
            return Errno.ENODEV;
        }

        // What goes through the host bridge is mapped like system memory: at its physical address where no IOMMU
        // translates.
        DmaAddressList? last = physical.LastMapped;
        bool differs = false; // from the physical addresses
        List<int>? translated = null;
        for (int i = 0; i < physical.Entries.Length; i++)
        {
            if (FindWindow(physical.Entries[i]) is not MemoryWindow window)
            {
                return Errno.EFAULT;
            }

            PeerMapType type = MapTypeOf(window, client);
            if (type == PeerMapType.NotSupported)
            {
                return Errno.EREMOTEIO;
            }

            ulong busOffset = type == PeerMapType.BusAddress ? window.Owner!.Root!.BusOffset : 0;
            differs |= busOffset != 0;
            if (last is not null && last.Entries[i].Start != physical.Entries[i].Start + busOffset)
            {
                last = null;
            }

            if (type != PeerMapType.BusAddress && root.Iommu == IommuMode.Strict)
            {
                (translated ??= []).Add(i);
            }
        }

        // A list belongs to a place of the storage: who maps again what has not moved gets the list of before.
        if (translated is null)
        {
            addresses = !differs ? physical : physical.LastMapped = last ?? new DmaAddressList(Shift(client, physical));
            return Errno.Success;
        }

        return TryTranslate(client, root, Shift(client, physical), translated, out addresses);
    }

    private DeviceRange[] Shift(PciFunction client, DmaAddressList physical)
    {
        DeviceRange[] mapped = physical.Entries.ToArray();
        for (int i = 0; i < mapped.Length; i++)
        {
            MemoryWindow window = FindWindow(mapped[i])!;
            if (MapTypeOf(window, client) == PeerMapType.BusAddress)
            {
                mapped[i] = mapped[i] with { Start = mapped[i].Start + window.Owner!.Root!.BusOffset };
            }
        }

        return mapped;
    }

    /// <summary>
    /// Ends what <see cref="TryMap"/> made of this very list: under a strict IOMMU later requests to those addresses
    /// fault. Without one nothing stops a device that goes on, which is why its gate is closed and drained first.
    /// </summary>
    public void Unmap(PciFunction client, DmaAddressList addresses)
    {
        ArgumentNullException.ThrowIfNull(client);
        ArgumentNullException.ThrowIfNull(addresses);
        if (_domains.TryGetValue(client, out IommuDomain? domain))
        {
            domain.Unmap(addresses);
        }
    }

    /// <summary>Requests of a function that its IOMMU refused to translate.</summary>
    public long IommuFaults(PciFunction client) =>
        _domains.TryGetValue(client, out IommuDomain? domain) ? domain.Faults : 0;

    /// <summary>
    /// What has crossed every link that anything has crossed, in no order; both directions seen from the host bridge.
    /// </summary>
    public IReadOnlyList<LinkTraffic> LinkTraffic()
    {
        Dictionary<PciFunction, (long Up, long Down)> sums = [];
        foreach (PathTraffic path in _traffic)
        {
            (long read, long written) = (path.ReadBytes, path.WrittenBytes);
            foreach (PciFunction link in path.ClientLinks)
            {
                (long up, long down) = sums.GetValueOrDefault(link);
                sums[link] = (up + written, down + read);
            }

            foreach (PciFunction link in path.OwnerLinks)
            {
                (long up, long down) = sums.GetValueOrDefault(link);
                sums[link] = (up + read, down + written);
            }
        }

        return [.. sums.Select(s => new LinkTraffic(s.Key, s.Value.Up, s.Value.Down))];
    }

    // One block of I/O addresses for the entries that an IOMMU translates.
    private Errno TryTranslate(
        PciFunction client,
        HostBridge root,
        DeviceRange[] mapped,
        List<int> translated,
        out DmaAddressList? addresses)
    {
        addresses = null;

        IommuDomain domain = _domains[client];
        DeviceRange[] block = [.. translated.Select(i => mapped[i])];
        DeviceRange[] reserved =
        [
            .. _windows.Where(w => w.Owner?.Root == root)
                .Select(w => w.Range with { Start = w.Range.Start + root.BusOffset }),
        ];
        if (!domain.TryMap(block, reserved, out ulong first))
        {
            return Errno.ENOMEM;
        }

        ulong next = first;
        foreach (int i in translated)
        {
            ulong lead = mapped[i].Start.Value % IommuDomain.PageBytes;
            ulong pages = (lead + mapped[i].LengthBytes + IommuDomain.PageBytes - 1) & ~(IommuDomain.PageBytes - 1);
            mapped[i] = mapped[i] with { Start = new DeviceAddress(next + lead) };
            next += pages;
        }

        addresses = new DmaAddressList(mapped);
        domain.Keep(addresses, first);
        return Errno.Success;
    }

    private static PeerMapType MapTypeOf(MemoryWindow window, PciFunction client) =>
        window.Owner is not PciFunction owner ? PeerMapType.None
        : ReferenceEquals(owner, client) ? PeerMapType.BusAddress
        : window.IsPrivate ? PeerMapType.NotSupported
        : owner.PeerDevice?.VerdictFor(client).MapType ?? PeerMapType.NotSupported;

    // A range may go on in the next window of the same owner: a window holds less than 2 GiB, a BAR any number of them.
    private MemoryWindow? FindWindow(DeviceRange range)
    {
        MemoryWindow? first = FindWindow(range.Start);
        MemoryWindow? window = first;
        (DeviceAddress address, ulong left) = (range.Start, range.LengthBytes);
        while (window is not null && ReferenceEquals(window.Owner, first!.Owner))
        {
            ulong here = window.Range.LengthBytes - (address.Value - window.Range.Start.Value);
            if (left <= here)
            {
                return first;
            }

            (address, left) = (address + here, left - here);
            window = FindWindow(address);
        }

        return null;
    }

    private MemoryWindow? FindWindow(DeviceAddress address)
    {
        foreach (MemoryWindow window in _windows)
        {
            if (window.Range.Contains(address, 1))
            {
                return window;
            }
        }

        return null;
    }

    // A tree that was written down or read from a machine may have BARs anywhere.
    private DeviceRange TakeSystemRange(ulong lengthBytes)
    {
        while (true)
        {
            DeviceRange range = new(new DeviceAddress(_nextMemory), lengthBytes);
            _nextMemory += (lengthBytes + WindowAlignmentBytes - 1) / WindowAlignmentBytes * WindowAlignmentBytes;
            if (!Topology.Functions.Any(f => f.Bars.Any(b => b is not null && b.Range.Overlaps(range))))
            {
                return range;
            }
        }
    }

    private void Add(MemoryWindow window)
    {
        _windows = [.. _windows, window];
        Rebuild();
    }

    private void Rebuild()
    {
        FabricDecoder decoder = new(Topology, _windows, _traffic);
        Processor.Decode = decoder.DecodeProcessor(Processor);
        foreach (PciFunction client in _clients)
        {
            client.Decode = decoder.Decode(client, _domains.GetValueOrDefault(client));
        }
    }
}
