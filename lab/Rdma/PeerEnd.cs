namespace Wayleave.Lab.Rdma;

/// <summary>One end of a dialog between a kernel's RDMA device and ours, as the other has to know it.</summary>
internal sealed record PeerEnd(string Address, uint QueuePair, uint Psn, uint Key, ulong Memory);
